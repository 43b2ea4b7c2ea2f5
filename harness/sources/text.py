"""Reading a module's text: its digest apart from comments and blank lines, and what it imports."""

from __future__ import annotations

import ast
import hashlib
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

_TARGET = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_]\w*")


class Import(NamedTuple):
    """`from <dots><module> import <names>` with `level` dots, or `import <module>`: no dots, no
    names.
    """

    level: int
    module: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Text:
    """The parts of a module's text that matter to keys.

    `digest`: SHA-256 of the essence, 64 hex digits; `targets`: modules of "module:Class" strings in
    it.
    """

    digest: str
    imports: tuple[Import, ...]
    targets: tuple[str, ...]


def read(data: bytes) -> Text:
    """Read a source file's bytes. A file that is no Python has the digest of its bytes, and imports
    nothing.
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        tree = ast.parse(text)
        digest = hashlib.sha256(essence(text).encode()).hexdigest()
    except (SyntaxError, ValueError, tokenize.TokenError, RecursionError):
        return Text(hashlib.sha256(data).hexdigest(), (), ())
    imports: dict[Import, None] = {}  # in the order of the text, each once
    targets = set()
    for node in _executed(tree):
        imports.update(dict.fromkeys(_imports(node)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            target = _TARGET.fullmatch(node.value)
            if target:
                targets.add(target[1])
    return Text(digest, tuple(imports), tuple(sorted(targets)))


def essence(text: str) -> str:
    """Return source text without comments, blank lines and white space at line ends; strings stay
    untouched.

    Lines end in line feeds. Raises tokenize.TokenError or SyntaxError where the text is no Python.
    """
    lines = text.split("\n")
    quoted: set[int] = set()  # lines whose end lies within a string
    opened: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        row, column = token.start
        if kind == "COMMENT":
            lines[row - 1] = lines[row - 1][:column]
        elif kind == "STRING":
            quoted.update(range(row, token.end[0]))
        elif kind.endswith("STRING_START"):  # f-strings come in pieces from Python 3.12 on
            opened.append(row)
        elif kind.endswith("STRING_END"):
            quoted.update(range(opened.pop(), token.end[0]))
    kept = []
    for row, line in enumerate(lines, 1):
        if row in quoted:
            kept.append(line)
        elif line.strip():
            kept.append(line.rstrip())
    return "\n".join(kept)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but those under `if TYPE_CHECKING:`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and _for_types_only(node.test):
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))


def _for_types_only(test: ast.expr) -> bool:
    if isinstance(test, ast.Attribute):
        return test.attr == "TYPE_CHECKING"
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _imports(node: ast.AST) -> list[Import]:
    if isinstance(node, ast.Import):
        return [Import(0, alias.name, ()) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        names = tuple(alias.name for alias in node.names)
        return [Import(node.level, node.module or "", names)]
    return []
