"""The little that a list shows of a class, read from its source text: nothing is imported."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import environment
from harness.registry.memo import Memo
from harness.sources import locate

_HOPS = 5
"""Imports that are followed from module to module."""


@dataclass(frozen=True)
class Synopsis:
    """A class's literal `version` (1 where it has none), the first line of its docstring, and where
    it stands.

    `fault` says why nothing could be read.
    """

    version: int = 1
    summary: str = ""
    file: str = ""
    line: int = 0
    fault: str = ""


def read(target: str, memo: Memo | None = None) -> Synopsis:
    """Return the synopsis of the class that `module:Class` names, following `from ... import
    Class`. Never raises.
    """
    module, _, name = target.partition(":")
    file = locate.find(module)
    if file is None:
        return Synopsis(fault=f"there is no module {module}")
    question = ["synopsis", str(file), name]
    state = environment.file_state(file)
    if memo:
        remembered = memo.get(question, state)
        if remembered:
            return Synopsis(**remembered)
    synopsis = _search(module, name, file, _HOPS)
    # Only what stands in this very file is remembered, since only this file is watched.
    if memo and synopsis.file == str(file) and not synopsis.fault:
        memo.put(question, asdict(synopsis), state)
    return synopsis


def _search(module: str, name: str, file: Path, hops: int) -> Synopsis:
    try:
        body = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError) as error:
        return Synopsis(file=str(file), fault=f"{file} cannot be read: {error}")
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    if name in classes:
        node = classes[name]
        return Synopsis(_version(node, classes), _summary(node), str(file), node.lineno)
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    origin = _imported_from(imports, module, name, file)
    if origin is not None and hops:
        source, original_name, source_file = origin
        return _search(source, original_name, source_file, hops - 1)
    # The name may be made at run time; resolving it will tell.
    return Synopsis(file=str(file))


def _imported_from(
    imports: Sequence[ast.ImportFrom], module: str, name: str, file: Path
) -> tuple[str, str, Path] | None:
    """Return module, name and file that a name of `module` is imported from; None if no import of a
    file that can be found brings it.
    """
    for node in imports:
        for alias in node.names:
            if (alias.asname or alias.name) != name:
                continue
            source = _absolute(node, module, file)
            source_file = locate.find(source)
            if source_file is not None:
                return source, alias.name, source_file
    return None


def _absolute(node: ast.ImportFrom, module: str, file: Path) -> str:
    """Return the full name of the module that `from ... import` in `module` names."""
    if not node.level:
        return node.module or ""
    package = module.split(".")
    if file.name != "__init__.py":
        package.pop()
    parts = package[: len(package) - node.level + 1]
    if node.module:
        parts.append(node.module)
    return ".".join(parts)


def _summary(node: ast.ClassDef) -> str:
    return inspect.cleandoc(ast.get_docstring(node) or "").partition("\n")[0]


def _version(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> int:
    """Return the version that a class states, else the first of its bases in the same module."""
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        else:
            continue
        if not any(isinstance(target, ast.Name) and target.id == "version" for target in targets):
            continue
        value = statement.value
        if isinstance(value, ast.Constant) and type(value.value) is int:
            return value.value
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes and classes[base.id] is not node:
            # Without this class, so that classes that name each other come to an end.
            others = {name: other for name, other in classes.items() if other is not node}
            return _version(classes[base.id], others)
    return 1
