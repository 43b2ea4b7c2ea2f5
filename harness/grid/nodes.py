"""A parsed grid file in which every value knows the file and line it stands in, also after files
were merged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import Problem
from harness.grid.toml_lines import Keys, Lines

_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Place:
    """Where something stands: `line` is 1-based (None: the file could not be read), `key` a dotted
    path.

    Indices in `key` count from 0, as in `attack[2].poison_rate` for the third `[[attack]]`.
    """

    file: Path
    line: int | None
    key: str

    def problem(self, what: str, hint: str = "") -> Problem:
        """A problem found here; `hint` says what would be right."""
        return Problem(self.file, self.line, self.key, what, hint)

    def below(self, *keys: str | int) -> Place:
        """The place of `keys` under this one, for keys that the file does not mention: the same
        line.
        """
        return Place(self.file, self.line, dotted(keys, self.key)) if keys else self

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else str(self.file)


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
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> list[Node]:
        """The value as a list; empty where it is none."""
        return self.value if isinstance(self.value, list) else []

    def plain(self) -> Any:
        """The value without positions."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def at(self, *keys: str | int) -> Place:
        """The place of what stands under `keys`, or of its nearest ancestor (the key is spelt out
        all the same).
        """
        node = self
        for position, key in enumerate(keys):
            children: Mapping[Any, Node] = dict(enumerate(node.items)) | node.table
            if key not in children:
                return node.place.below(*keys[position:])
            node = children[key]
        return node.place


def build(value: Any, file: Path, lines: Lines, path: Keys = ()) -> Node:
    """`value` as `tomllib` parsed it, with the places that `lines` knows."""
    place = Place(file, lines.at(path), dotted(path))
    if isinstance(value, dict):
        return Node(
            place, {key: build(item, file, lines, (*path, key)) for key, item in value.items()}
        )
    if isinstance(value, list):
        return Node(
            place, [build(item, file, lines, (*path, number)) for number, item in enumerate(value)]
        )
    return Node(place, value)


def dotted(keys: Keys, start: str = "") -> str:
    """Keys as a user would write them: `attack[2].poison_rate`; what is no bare key is quoted."""
    text = start
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += ("." if text else "") + (key if _BARE.fullmatch(key) else shown(key))
    return text


def shown(value: Any) -> str:
    """A plain value as it would be written in TOML, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{dotted((key,))} = {shown(item)}" for key, item in value.items())
            + "}"
        )
    return str(value)


def described(value: Any) -> str:
    """What a value of a wrong type is, for a message: `"12" (a string)`."""
    kinds = {
        bool: "a boolean",
        int: "an integer",
        float: "a float",
        str: "a string",
        list: "a list",
        dict: "a table",
    }
    text = shown(value)
    text = text if len(text) <= 40 else text[:37] + "..."
    return f"{text} ({kinds.get(type(value), 'a date or time')})"


def same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal: 1 equals 1.0, but true is no number."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def storable(value: Any) -> bool:
    """Whether a scalar can be a setting: a string, a boolean, an integer or a finite float."""
    return isinstance(value, bool | int | str) or (
        isinstance(value, float) and math.isfinite(value)
    )
