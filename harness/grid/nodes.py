"""A parsed grid file in which every value knows the file and line it stands in, also after files
were merged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import Problem
from harness.grid.toml_lines import Keys, Lines

_BARE = re.compile(r"[A-Za-z0-9_-]+")

_TYPES = {
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    str: "a string",
    list: "a list",
    dict: "a table",
}

_SHOWN = 40
"""The most characters of a value that a message shows."""

LARGEST = 2**63 - 1
"""The largest integer of TOML."""


@dataclass(frozen=True)
class Place:
    """A position in a grid file: `line` is 1-based (None: the file could not be read), `key` a
    dotted path.

    Indices in `key` count from 0, as in `attack[2].poison_rate` for the third `[[attack]]`.
    """

    file: Path
    line: int | None
    key: str

    def problem(self, complaint: str, hint: str = "") -> Problem:
        """Return a problem found here; `hint` says what would be right."""
        return Problem(self.file, self.line, self.key, complaint, hint)

    def below(self, *keys: str | int) -> Place:
        """Return the place of `keys` under this one, for keys that the file does not mention: the
        same line.
        """
        if not keys:
            return self
        return Place(self.file, self.line, dotted(keys, self.key))

    def __str__(self) -> str:
        if not self.line:
            return str(self.file)
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Node:
    """One value of a grid: `value` is a dict of nodes, a list of nodes, or what `tomllib` made of a
    scalar.
    """

    place: Place
    value: Any

    @property
    def table(self) -> dict[str, Node]:
        """The value as a table; empty where it is none."""
        if isinstance(self.value, dict):
            return self.value
        return {}

    @property
    def items(self) -> list[Node]:
        """The value as a list; empty where it is none."""
        if isinstance(self.value, list):
            return self.value
        return []

    def items_of(self, key: str) -> list[Node]:
        """Return the items of the list under `key`; none where no list stands there."""
        child = self.table.get(key)
        if child is None:
            return []
        return child.items

    def table_of(self, key: str) -> dict[str, Node]:
        """Return the entries of the table under `key`; none where no table stands there."""
        child = self.table.get(key)
        if child is None:
            return {}
        return child.table

    def plain(self) -> Any:
        """Return the value without positions."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def at(self, *keys: str | int) -> Place:
        """Return the place of what stands under `keys`, or of its nearest ancestor (the key is
        spelt out all the same).
        """
        node = self
        for position, key in enumerate(keys):
            child = node._child(key)
            if child is None:
                return node.place.below(*keys[position:])
            node = child
        return node.place

    def _child(self, key: str | int) -> Node | None:
        if isinstance(key, str):
            return self.table.get(key)
        if 0 <= key < len(self.items):
            return self.items[key]
        return None


def build(value: Any, file: Path, lines: Lines, path: Keys = ()) -> Node:
    """Return `value` as `tomllib` parsed it, with the places that `lines` knows."""
    place = Place(file, lines.at(path), dotted(path))
    if isinstance(value, dict):
        table = {}
        for key, item in value.items():
            table[key] = build(item, file, lines, (*path, key))
        return Node(place, table)
    if isinstance(value, list):
        items = []
        for number, item in enumerate(value):
            items.append(build(item, file, lines, (*path, number)))
        return Node(place, items)
    return Node(place, value)


def dotted(keys: Keys, start: str = "") -> str:
    """Return keys as a user would write them: `attack[2].poison_rate`; what is no bare key is
    quoted.
    """
    text = start
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
            continue
        if text:
            text += "."
        if _BARE.fullmatch(key):
            text += key
        else:
            text += shown(key)
    return text


def shown(value: Any) -> str:
    """Return a plain value as it would be written in TOML, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list):
        items = [shown(item) for item in value]
        return f"[{', '.join(items)}]"
    if isinstance(value, dict):
        pairs = [f"{dotted((key,))} = {shown(item)}" for key, item in value.items()]
        return "{" + ", ".join(pairs) + "}"
    return str(value)


def _quoted(value: str) -> str:
    text = ""
    for character in value:
        if character in '\\"':
            text += "\\" + character
        elif character.isprintable():
            text += character
        else:
            text += f"\\U{ord(character):08x}"
    return f'"{text}"'


def described(value: Any) -> str:
    """Return a value of a wrong type and its type, for a message: `"12" (a string)`."""
    text = shown(value)
    if len(text) > _SHOWN:
        text = text[: _SHOWN - 3] + "..."
    name = _TYPES.get(type(value), "a date or time")
    return f"{text} ({name})"


def same(first: Any, second: Any) -> bool:
    """Return True if two plain values are equal: 1 equals 1.0, but true is no number."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, list) and isinstance(second, list):
        if len(first) != len(second):
            return False
        return all(map(same, first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        if first.keys() != second.keys():
            return False
        return all(same(first[key], second[key]) for key in first)
    return bool(first == second)


def identity(value: Any) -> Hashable:
    """Return something that is equal for two plain values if and only if they are the `same`."""
    if isinstance(value, list):
        return "list", tuple(map(identity, value))
    if isinstance(value, dict):
        pairs = [(key, identity(item)) for key, item in value.items()]
        return "table", frozenset(pairs)
    if isinstance(value, float) and math.isnan(value):
        return object()
    return isinstance(value, bool), value


def storable(value: Any) -> bool:
    """Return True if a scalar can be a setting: a string, boolean, integer or finite float."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, bool | int | str)
