"""What a list shows of a class, read from its source text: nothing is imported."""

from __future__ import annotations

import ast
import inspect
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import environment
from harness.registry.memo import Memo
from harness.sources import locate

_HOPS = 5


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
    """Of the class that `module:Class` names, following `from ... import Class`. Never raises."""
    module, _, name = target.partition(":")
    file = locate.find(module)
    if file is None:
        return Synopsis(fault=f"there is no module {module}")
    question, stamp = ["synopsis", str(file), name], environment.file_state(file)
    if memo and (known := memo.get(question, stamp)):
        return Synopsis(**known)
    found = _search(module, name, file, _HOPS)
    # Only what stands in this very file is remembered, since only this file is watched.
    if memo and found.file == str(file) and not found.fault:
        memo.put(question, asdict(found), stamp)
    return found


def _search(module: str, name: str, file: Path, hops: int) -> Synopsis:
    try:
        body = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError) as error:
        return Synopsis(file=str(file), fault=f"{file} cannot be read: {error}")
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    if name in classes:
        found = classes[name]
        return Synopsis(_version(found, classes), _summary(found), str(file), found.lineno)
    for node in body:
        if isinstance(node, ast.ImportFrom) and hops:
            for alias in node.names:
                source = _absolute(node, module, file)
                if (alias.asname or alias.name) == name and (there := locate.find(source)):
                    return _search(source, alias.name, there, hops - 1)
    # The name may be made at run time; resolving it will tell.
    return Synopsis(file=str(file))


def _absolute(node: ast.ImportFrom, module: str, file: Path) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *([node.module] if node.module else [])])


def _summary(node: ast.ClassDef) -> str:
    return inspect.cleandoc(ast.get_docstring(node) or "").partition("\n")[0]


def _version(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> int:
    for statement in node.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
        if any(isinstance(target, ast.Name) and target.id == "version" for target in targets):
            value = getattr(statement, "value", None)
            if isinstance(value, ast.Constant) and type(value.value) is int:
                return value.value
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes and classes[base.id] is not node:
            return _version(
                classes[base.id],
                {name: other for name, other in classes.items() if other is not node},
            )
    return 1
