"""Files behind parameters: where they lie, what they hold, and which ones a component reads on its
own.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import environment
from harness.introspect.problems import ParameterError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 1 << 20

_listening: list[set[str]] = []
_hooked = False


def lay_out(value: Any, change: Callable[[Path], Any]) -> Any:
    """The value with every path in it, at any depth, changed."""
    if isinstance(value, Path):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(lay_out(item, change) for item in value)
    if isinstance(value, dict):
        return {key: lay_out(item, change) for key, item in value.items()}
    return value


def locate(field: str, path: Path, base: Path) -> Path:
    """The absolute path of a `File`: beside the grid (`base`), else in `$BENCH_DATA`.

    Raises ParameterError where there is no such file.
    """
    places = [path] if path.is_absolute() else [base / path]
    if not path.is_absolute() and (data := os.environ.get("BENCH_DATA")):
        places.append(Path(data).absolute() / path)
    for place in places:
        if place.is_file():
            return place.resolve()
    if folders := [place for place in places if place.is_dir()]:
        raise ParameterError(((field,), f"{folders[0]} is a folder", "a file is wanted"))
    looked = " nor ".join(map(str, places))
    hint = (
        "a relative path is looked up beside the grid, then in $BENCH_DATA"
        if not path.is_absolute()
        else ""
    )
    raise ParameterError(((field,), f"there is no file {looked}", hint))


def locate_folder(path: Path, base: Path) -> Path:
    """The absolute path of a `Folder`: `~` is one's home; beside the grid (`base`), else in
    `$BENCH_DATA`.

    Where there is neither, the one beside the grid, which is for the component to make or to
    complain about.
    """
    path = path.expanduser()
    places = [base / path]
    if not path.is_absolute() and (data := os.environ.get("BENCH_DATA")):
        places.append(Path(data).absolute() / path)
    return next((place for place in places if place.is_dir()), places[0]).absolute()


def sha256(path: Path) -> str:
    """Of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def opened() -> Iterator[dict[str, Any]]:
    """Collect the stamps of data files and folders that are read meanwhile; Python's own are left
    out.

    Whoever remembers an answer must notice when one of them changes. Reads by compiled code are not
    seen.
    """
    global _hooked
    if not _hooked:
        # A hook cannot be taken away again; this process is short-lived.
        sys.addaudithook(_hear)
        _hooked = True
    heard: set[str] = set()
    _listening.append(heard)
    stamps: dict[str, Any] = {}
    try:
        yield stamps
    finally:
        _listening.remove(heard)
        stamps |= {
            path: environment.file_state(path) for path in sorted(heard) if not _is_code(path)
        }


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if (
        _listening
        and event in ("open", "os.listdir", "os.scandir")
        and isinstance(arguments[0], (str, bytes, Path))
    ):
        for heard in _listening:
            heard.add(str(Path(os.fsdecode(arguments[0])).absolute()))


def _is_code(path: str) -> bool:
    inside = (sys.prefix, sys.base_prefix, "/proc", "/sys", "/dev", "/etc", str(Path.cwd()))
    return path.endswith((".py", ".pyc")) or any(
        path.startswith(folder + os.sep) for folder in inside
    )
