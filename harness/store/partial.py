"""Objects some of whose files were left out, as those from packs without weights or images are.

Beside the manifest of such an object, which lists them all the same, `left-out.json` names them. It
is looked at only where a file is not there, so a file that is added later needs no change of it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from harness.store import disk, plain

LEFT_OUT = "left-out.json"


def left_out(place: str | Path) -> frozenset[str]:
    """Return the names of the files that were left out of the object in folder `place`; none where
    nothing says so. Raises ValueError where what says so cannot be read.
    """
    try:
        return read(plain.content(f"{place}/{LEFT_OUT}"))
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise ValueError(f"{LEFT_OUT}: {error.strerror}") from error


def read(data: bytes) -> frozenset[str]:
    """Return the names in the bytes of `left-out.json`. Raises ValueError."""
    names = plain.parse(data)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"its {LEFT_OUT} is no list of names")
    return frozenset(names)


def text(names: Collection[str]) -> bytes:
    """Return the bytes of `left-out.json`."""
    return json.dumps(sorted(names), indent=1).encode() + b"\n"


def write(place: Path, names: Collection[str]) -> None:
    """Write down which files were left out of the object in folder `place`, durably."""
    disk.write(place / LEFT_OUT, text(names))


def lacking(absent: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Return the names among `absent`, sorted, that match one of the patterns (fnmatch)."""
    patterns = tuple(patterns)
    lacking = []
    for name in sorted(absent):
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            lacking.append(name)
    return lacking


def reason(names: Iterable[str]) -> str:
    """Say that files which are needed were left out."""
    return f"left out of the pack that it came in: {', '.join(names)}"
