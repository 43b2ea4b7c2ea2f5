"""The line of a TOML text that each key stands in. `tomllib` gives values without positions; error
messages need lines.

The scanner relies on the text being valid TOML (parse it with `tomllib` first), so it only has to
find keys, the ends of values and the items of arrays. Source of the grammar: toml.io, version
1.0.0.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping

Keys = tuple[str | int, ...]
"""A path into the parsed document: table keys and 0-based array indices."""

_BLANK = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_SCALAR = re.compile(r"[^,\]}\n#]*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
# Three quotes first: `""` would match as an empty string. Up to two quotes may stand right before
# the closing three.
_STRING = re.compile(
    r'''"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}'''
    r"""|'''(?:[^']|'{1,2}(?!'))*'{3,5}"""
    r'''|"(?:[^"\\\n]|\\.)*"'''
    r"""|'[^'\n]*'""",
    re.DOTALL,
)
_POSITION = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)\s*$")


class Lines:
    """The line of every key, table header and array item of one text."""

    def __init__(self, found: Mapping[Keys, int]) -> None:
        self._found = found

    def at(self, path: Keys) -> int:
        """Return the 1-based line of `path`, or of its nearest ancestor that the text mentions; 1
        for the empty path.
        """
        while path:
            if path in self._found:
                return self._found[path]
            path = path[:-1]
        return 1

    def __contains__(self, path: Keys) -> bool:
        return path in self._found

    def paths(self) -> frozenset[Keys]:
        """Return every path that the text mentions."""
        return frozenset(self._found)


def index(text: str) -> Lines:
    """Return the lines of all keys of `text`, which must be valid TOML.

    A table opened by a header stands at that header, one made by dotted keys at the first of them,
    an array of tables at its first header and each of its tables at its own.
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    return Lines(scanner.found)


def fault(error: ValueError, text: str) -> tuple[int, str]:
    """Return the line of a `tomllib.TOMLDecodeError` and its message, which says the column but not
    the line again.
    """
    position = _POSITION.search(str(error))
    if position is None:
        return 1, str(error)
    message = str(error)[: position.start()]
    if position[1] is None:
        last = len(text.rstrip().splitlines())
        return max(1, last), f"{message} at the end of the file"
    return int(position[1]), f"{message} at column {position[2]}"


class _Scanner:
    """Walks through one text, from the beginning to the end, and notes the line of each key.

    `found` has the lines, `counts` the number of tables so far in each array of tables, `starts`
    the positions at which lines begin.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.found: dict[Keys, int] = {}
        self.counts: dict[Keys, int] = {}
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def document(self) -> None:
        """Scan the whole text."""
        table: Keys = ()
        self._take(_BLANK)
        while self.position < len(self.text):
            if self.text.startswith("[[", self.position):
                table = self._array_header()
            elif self.text[self.position] == "[":
                table = self._table_header()
            else:
                self._pair(table)
            self._take(_BLANK)

    def _array_header(self) -> Keys:
        line = self._line()
        self.position += 2
        *parents, last = self._key()
        self.position += 2
        path = (*self._open(tuple(parents), line), last)
        self.counts[path] = self.counts.get(path, 0) + 1
        self.found.setdefault(path, line)
        item = (*path, self.counts[path] - 1)
        self.found[item] = line
        return item

    def _table_header(self) -> Keys:
        line = self._line()
        self.position += 1
        *parents, last = self._key()
        self.position += 1
        path = (*self._open(tuple(parents), line), last)
        # Also where [a.b] came before [a]: the header is where a reader looks for the table.
        self.found[path] = line
        return path

    def _open(self, keys: tuple[str, ...], line: int) -> Keys:
        """Return the path that `keys` of a header mean: the last table of each array of tables on
        the way.
        """
        path: Keys = ()
        for key in keys:
            path = (*path, key)
            self.found.setdefault(path, line)
            if path in self.counts:
                path = (*path, self.counts[path] - 1)
        return path

    def _pair(self, table: Keys) -> None:
        line = self._line()
        path = table
        for key in self._key():
            path = (*path, key)
            self.found.setdefault(path, line)
        self.position += 1  # the equals sign
        self._take(_SPACE)
        self._value(path)

    def _value(self, path: Keys) -> None:
        opening = self.text[self.position]
        if opening in "\"'":
            self._take(_STRING)
        elif opening == "[":
            self._items(path)
        elif opening == "{":
            self._inline_table(path)
        else:
            self._take(_SCALAR)

    def _items(self, path: Keys) -> None:
        self.position += 1
        count = 0
        while not self._closed("]"):
            item = (*path, count)
            self.found[item] = self._line()
            self._value(item)
            count += 1

    def _inline_table(self, path: Keys) -> None:
        self.position += 1
        while not self._closed("}"):
            self._pair(path)

    def _closed(self, bracket: str) -> bool:
        """Step over what separates items. If the closing bracket comes next, step over it too and
        return True.
        """
        self._take(_BLANK)
        if self.text[self.position] == ",":
            self.position += 1
            self._take(_BLANK)
        if self.text[self.position] != bracket:
            return False
        self.position += 1
        return True

    def _key(self) -> list[str]:
        """Return the parts of a dotted key, unquoted; stop behind it and the spaces after it."""
        parts = []
        while True:
            self._take(_SPACE)
            written = self._take(_KEY)
            if written[0] in "\"'":
                written = tomllib.loads(f"key = {written}")["key"]
            parts.append(written)
            self._take(_SPACE)
            if self.text[self.position] != ".":
                return parts
            self.position += 1

    def _take(self, pattern: re.Pattern[str]) -> str:
        """Step over what matches `pattern` here, and return it."""
        match = pattern.match(self.text, self.position)
        if match is None:
            raise ValueError(f"not valid TOML at line {self._line()}")
        self.position = match.end()
        return match[0]

    def _line(self) -> int:
        """Return the 1-based line of the current position."""
        return bisect_right(self.starts, self.position)
