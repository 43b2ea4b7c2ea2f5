"""What lies in a store, with its size and age, and whether it is whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.store import disk
from harness.store.manifest import MANIFEST, Manifest
from harness.store.objects import Store

UNREADABLE = "damaged"
"""Stands for the kind of an object that does not tell it."""
DAMAGED = "damaged."
"""Begins the names in `tmp/` of objects that were set aside."""


@dataclass(frozen=True)
class Held:
    """Something in a store: its key (in `tmp/` its name), the kind of its stage if it tells, bytes,
    and when it came there (seconds since 1970).
    """

    key: str
    kind: str
    size: int
    since: float


def objects(store: Store) -> Iterator[Held]:
    """Yield what there is of finished work. Nothing is set aside."""
    keys = store.keys()
    for key in keys:
        folder = store.folder(key)
        yield _held(key, folder, _kind(folder, key), folder / MANIFEST)


def checkpoints(store: Store) -> Iterator[Held]:
    """Yield what is kept of unfinished work."""
    for key in store.checkpoints.held():
        folder = store.root / "checkpoints" / key
        kind = UNREADABLE
        for number in disk.names(str(folder)):
            kind = _kind(folder / number, key)
        yield _held(key, folder, kind, folder)


def failures(store: Store) -> Iterator[Held]:
    """Yield the notes of what failed, or made no sense."""
    for key in sorted(store.failed()):
        folder = store.root / "failures" / key
        note = store.failure(key) or {}
        yield _held(key, folder, str(note.get("kind", UNREADABLE)), folder)


def leftovers(store: Store) -> Iterator[Held]:
    """Yield what lies in `tmp/`: unfinished work, and damaged objects that were set aside."""
    for name in sorted(disk.names(str(store.root / "tmp"))):
        path = store.root / "tmp" / name
        yield _held(name, path, "", path)


def is_removable(leftover: Held) -> bool:
    """Tell whether nobody works any more at something in `tmp/`, as far as this machine knows."""
    return leftover.key.startswith(DAMAGED) or disk.abandoned(leftover.key)


def verified(store: Store, key: str, choose: Callable[[str], bool] | None = None) -> Manifest:
    """Compare files of an object with the SHA-256 in its manifest, all or those whose names
    `choose` accepts. Raises Unreadable where it is not whole, and sets it aside, aloud.
    """
    manifest = store.manifest(key)
    if manifest is None:
        raise disk.Unreadable("it is not there, or not whole")
    try:
        for name, entry in manifest.files.items():
            if name in manifest.absent or not (choose is None or choose(name)):
                continue
            if disk.checksum(store.folder(key) / name) != entry["sha256"]:
                raise disk.Unreadable(f"{name} is altered: its SHA-256 is not the one recorded")
    except disk.Unreadable as error:
        store.set_aside(key, str(error))
        raise
    return manifest


def _kind(folder: Path, key: str) -> str:
    try:
        manifest = Manifest.load(disk.read(str(folder / MANIFEST)), key)
        return str(manifest.spec["stage"])
    except (OSError, ValueError, KeyError, TypeError):
        return UNREADABLE


def _held(key: str, path: Path, kind: str, dated: Path) -> Held:
    try:
        since = dated.lstat().st_mtime
    except OSError:
        since = 0.0
    return Held(key, kind, _size(path), since)


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder. Links are not followed."""
    total = 0
    pending = [path]
    while pending:
        place = pending.pop()
        try:
            if place.is_dir() and not place.is_symlink():
                with os.scandir(place) as entries:
                    pending += [Path(entry.path) for entry in entries]
            else:
                total += place.lstat().st_size
        except OSError:  # gone meanwhile, or somebody else's
            continue
    return total
