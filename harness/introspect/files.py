"""Files behind parameters: finding them, hashing them, and noticing which ones a component reads on
its own.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import environment
from harness.introspect.problems import ParameterError

_CHUNK = 1 << 20

_RECENT = 20_000_000
"""Nanoseconds within which two changes of a file may bear the same time."""

_listening: list[dict[str, Any]] = []
"""The tables that collect the states of what is opened, by path."""
_hooked = False


def lay_out(value: Any, change: Callable[[Path], Any]) -> Any:
    """Return the value with every path in it, at any depth, changed."""
    if isinstance(value, Path):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(lay_out(item, change) for item in value)
    if isinstance(value, dict):
        return {key: lay_out(item, change) for key, item in value.items()}
    return value


def locate(field: str, path: Path, base: Path) -> Path:
    """Return the absolute path of a `File`: beside the grid (`base`), else in `$BENCH_DATA`.

    Raises ParameterError where there is no such file.
    """
    places = _places(path, base)
    for place in places:
        if place.is_file():
            return place.resolve()
        _note(str(place))
    for place in places:
        if place.is_dir():
            raise ParameterError(((field,), f"{place} is a folder", "a file is expected"))
    looked = " nor ".join(map(str, places))
    hint = ""
    if not path.is_absolute():
        hint = "a relative path is looked up beside the grid, then in $BENCH_DATA"
    raise ParameterError(((field,), f"there is no file {looked}", hint))


def locate_folder(path: Path, base: Path) -> Path:
    """Return the absolute path of a `Folder`: `~` is one's home; beside the grid (`base`), else in
    `$BENCH_DATA`.

    If there is neither, it is the one beside the grid, which is for the component to make or to
    complain about.
    """
    places = _places(path.expanduser(), base)
    for place in places:
        if place.is_dir():
            return place.absolute()
        _note(str(place))
    return places[0].absolute()


def _places(path: Path, base: Path) -> list[Path]:
    """List where a path may lie."""
    if path.is_absolute():
        return [path]
    places = [base / path]
    data = os.environ.get("BENCH_DATA")
    if data:
        places.append(Path(data).absolute() / path)
    return places


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def opened() -> Iterator[dict[str, Any]]:
    """Collect the states of data files and folders that are read meanwhile, as they were before,
    and those of the places at which a file was looked for; Python's own files are left out.

    A remembered answer no longer counts once one of them has changed. Reads by compiled code are
    not seen.
    """
    global _hooked
    if not _hooked:
        # A hook cannot be taken away again; this process is short-lived.
        sys.addaudithook(_hear)
        _hooked = True
    heard: dict[str, Any] = {}
    _listening.append(heard)
    states: dict[str, Any] = {}
    try:
        yield states
    finally:
        # Compared by identity: two tables may be equal.
        _listening[:] = [table for table in _listening if table is not heard]
        for path in sorted(heard):
            if not _is_code(path):
                states[path] = heard[path]


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what is opened, as an audit hook of Python."""
    if not _listening or event not in ("open", "os.listdir", "os.scandir"):
        return
    # A file may also be opened by its number.
    if isinstance(arguments[0], (str, bytes, Path)):
        _note(str(Path(os.fsdecode(arguments[0])).absolute()))


def _note(path: str) -> None:
    """Note the state of a path for all who listen, unless they have it already."""
    for table in _listening:
        if path not in table:
            table[path] = _lasting_state(path)


def _lasting_state(path: str) -> list[int] | None:
    """Return the state of a path.

    None, which no file that is there has, for one so new that the next change may bear the same
    time: what is read of it is not remembered.
    """
    state = environment.file_state(path)
    if state is not None and time.time_ns() - state[2] < _RECENT:
        return None
    return state


def _is_code(path: str) -> bool:
    if path.endswith((".py", ".pyc")):
        return True
    folders = (sys.prefix, sys.base_prefix, "/proc", "/sys", "/dev", "/etc", str(Path.cwd()))
    return any(path.startswith(folder + os.sep) for folder in folders)
