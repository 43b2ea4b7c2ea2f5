"""Files that a stage, a plugin or a broken disk may have left: opened as plain files only, never
waited for, read up to a size, and JSON in them checked.

Whatever is wrong with one is a ValueError that names it, or an OSError where the system refused.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

LIMIT = 1 << 26
"""Bytes of a JSON file at most: 64 MiB."""
DEEPEST = 40
"""Levels of a JSON value at most."""
LONGEST_NAME = 500
"""Characters of a name in a JSON value at most."""

_MOST_BITS = 1000
"""Bits of a whole number at most: larger ones fit in no float."""
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_SPECIAL = {errno.ELOOP: "is a link", errno.ENXIO: "is no plain file"}
"""Errors of opening that mean that there is something else than a plain file."""
_PIECE = 1 << 16


class NotPlain(ValueError):
    """Raised for a link, a folder, a pipe, a socket or a device in the place of a file."""


def opened(path: str | Path) -> int:
    """Open a plain file for reading, and return its descriptor.

    A link is not followed, and a pipe is not waited for. Raises NotPlain, else OSError.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        if error.errno in _SPECIAL:
            raise NotPlain(f"{path} {_SPECIAL[error.errno]}") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotPlain(f"{path} is no plain file")
    return descriptor


def content(path: str | Path, limit: int = LIMIT) -> bytes:
    """Return all bytes of a plain file. Raises ValueError where there are more than `limit`, and
    what `opened` raises.
    """
    pieces = []
    read = 0
    descriptor = opened(path)
    try:
        size = os.fstat(descriptor).st_size
        while size <= limit and (piece := os.read(descriptor, _PIECE)):
            pieces.append(piece)
            read += len(piece)
            size = max(size, read)  # somebody may go on writing
        if size > limit:
            raise ValueError(f"{path} is larger than the {limit:,} bytes that are read of it")
    finally:
        os.close(descriptor)
    return b"".join(pieces)


def tail(path: str | Path, limit: int) -> bytes:
    """Return the last `limit` bytes of a plain file. Raises what `opened` raises."""
    descriptor = opened(path)
    try:
        size = os.fstat(descriptor).st_size
        os.lseek(descriptor, max(0, size - limit), os.SEEK_SET)
        pieces = []
        left = limit
        while left > 0 and (piece := os.read(descriptor, min(left, _PIECE))):
            pieces.append(piece)
            left -= len(piece)
    finally:
        os.close(descriptor)
    return b"".join(pieces)


def parse(data: bytes, *, finite: bool = True) -> Any:
    """Return the value of JSON text. Raises ValueError.

    Levels, numbers and names are checked: nothing is nested deeper than `DEEPEST`, each number fits
    in a float and, where `finite`, is none of infinity and NaN, and each name can be shown on a
    line. Texts may hold anything; see `clean`.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check(value, finite)
    return value


def table(data: bytes) -> dict[str, Any]:
    """Return the JSON object of a text; raise ValueError for anything else."""
    value = parse(data)
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}; a JSON object is expected")
    return value


def clean(text: str) -> str:
    """Return text that can be printed and written: what is no character, or moves the cursor, is
    replaced by `?`, but for line breaks and tabs.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character in "\n\t" or not _is_control(character):
        return character
    return "?"


def _is_control(character: str) -> bool:
    number = ord(character)
    return number < 0x20 or 0x7F <= number < 0xA0 or 0xD800 <= number < 0xE000


def check_name(name: str) -> None:
    """Raise ValueError for a name that cannot be shown on a line: too long, or with control
    characters or halves of characters in it.
    """
    if len(name) > LONGEST_NAME:
        raise ValueError(
            f"a name has {len(name)} characters, {name[:20]!r}...: at most {LONGEST_NAME} are taken"
        )
    if not (name.isascii() and name.isprintable()) and any(map(_is_control, name)):
        raise ValueError(f"the name {name!r} has control characters in it, or halves of characters")


def _check(value: Any, finite: bool) -> None:
    """Raise ValueError where a JSON value is not as `parse` promises. Level by level: a function
    that calls itself could be brought to its end.
    """
    level = [value]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                for name in item:
                    check_name(name)
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, float):
                if finite and not math.isfinite(item):
                    raise ValueError(f"it holds {item}; finite numbers are expected")
            elif isinstance(item, int) and item.bit_length() > _MOST_BITS:
                raise ValueError(f"it holds a whole number of {item.bit_length()} bits")
        if not below:
            return
        level = below
    raise ValueError(f"it is nested more than {DEEPEST} levels deep")
