"""The folder of a store: the marks by which it is recognised, and the folders in it."""

from __future__ import annotations

import json
from pathlib import Path

from harness.errors import StoreError
from harness.store import disk

FORMAT = 1
"""The version of the layout, written into STORE.json."""

STORE = "STORE.json"

_FOLDERS = ("objects", "tmp", "locks", "live", "failures", "checkpoints")
_GITIGNORE = b"*\n"
_CACHEDIR_TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n# Results that can be computed again.\n"
)
_MARKS = {".gitignore": _GITIGNORE, "CACHEDIR.TAG": _CACHEDIR_TAG}
_ALLOWED = {*_FOLDERS, *_MARKS, STORE, "lost+found"}
"""Names that may lie in a folder that is made a store, for one whose making was interrupted."""


def open_root(root: Path) -> None:
    """Check that the folder `root` is a store, or make one there if it is missing or empty.

    Raises StoreError for a store of another format and for a folder that holds other things.
    """
    mark = root / STORE
    if mark.is_file():
        # Nothing is written, so that a store on a read-only medium can be read.
        _check_format(mark)
        return
    root.mkdir(parents=True, exist_ok=True)
    foreign = {path.name for path in root.iterdir()} - _ALLOWED
    if foreign:
        raise StoreError(
            f"{root}: holds {min(foreign)!r} and is no store. Name a new or an empty folder"
        )
    for folder in _FOLDERS:
        (root / folder).mkdir(exist_ok=True)
    for name, text in _MARKS.items():
        (root / name).write_bytes(text)
    disk.replace(mark, json.dumps({"format": FORMAT}).encode() + b"\n", root / "tmp")


def _check_format(mark: Path) -> None:
    table = disk.read_table(mark) or {}
    version = table.get("format")
    if version != FORMAT:
        raise StoreError(
            f"{mark}: store format {version!r}, but this version reads format {FORMAT}. Name "
            "another folder with --store, or use the version that made it"
        )
