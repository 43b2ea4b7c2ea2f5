"""Packs: objects of a store in one file, for somebody else's store.

A pack is a zip file that any such program shows. Nothing in it is compressed, and it has no dates:
equal content gives equal bytes, and what is unpacked is never larger than the pack.

    PACK.json                          format, what it holds, and a line for each object
    grid/...                           the files of the grid, to look at and to copy
    objects/ab/<key>/manifest.json     as in the store, sealed; lists SHA-256 and size of each file
    objects/ab/<key>/left-out.json     the files of the object that the pack does not hold
    objects/ab/<key>/...               those that it does
    incompatible/<key>.json            why a stage makes no sense, where that turned out at work
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import BenchError
from harness.store import disk, partial, usage
from harness.store.manifest import LOG, MANIFEST, Manifest
from harness.store.objects import Store

FORMAT = 1
"""The version of the form of packs, written into PACK.json."""

ABOUT = "PACK.json"
OBJECTS = "objects"
INCOMPATIBLE = "incompatible"
GRID = "grid"

OWN = frozenset({MANIFEST, partial.LEFT_OUT, LOG})
"""Files of an object that its manifest does not list."""

_DATE = (1980, 1, 1, 0, 0, 0)
_UNIX = 3


class PackError(BenchError):
    """Raised for a file that is no pack, or not one to be trusted, and for one that cannot be
    written.
    """


@dataclass
class Packed:
    """The outcome of packing: keys and bytes of objects in the pack, and why others are not."""

    size: int = 0
    keys: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Chosen:
    """An object that goes into a pack: which of its files do, and the bytes of its manifest."""

    key: str
    manifest: bytes
    files: Mapping[str, str]
    """SHA-256 by name."""
    left_out: frozenset[str]
    has_log: bool


def place(key: str) -> str:
    """Return the folder of an object in a pack."""
    return f"{OBJECTS}/{key[:2]}/{key}"


def pack(
    path: Path,
    store: Store,
    keys: Iterable[str],
    choose: Callable[[str], bool],
    *,
    about: Mapping[str, Any],
    grid: Mapping[str, Path],
    incompatible: Mapping[str, Mapping[str, Any]],
) -> Packed:
    """Write a pack of objects, of each those files whose names `choose` accepts.

    `about` goes into PACK.json; `grid`: files by their names in the pack's folder `grid/`;
    `incompatible`: the store's notes by key. The file appears whole or not at all. Every file is
    compared with its SHA-256; objects that are damaged are set aside and left out. Raises PackError
    where the pack cannot be written, and StoreError.
    """
    packed = Packed()
    chosen = []
    for key in sorted(keys):
        try:
            manifest = usage.verified(store, key, choose)
            one = _choose(store, manifest, choose)
        except disk.Unreadable as error:
            packed.damaged[key] = str(error)
            continue
        chosen.append(one)
        packed.keys.append(key)
    listed = {one.key: sorted(one.files) for one in chosen}
    table = {"format": FORMAT, **about, "objects": listed, "incompatible": sorted(incompatible)}
    with _written(path) as archive:
        _add(archive, ABOUT, _json(table))
        for name, source in sorted(grid.items()):
            _add(archive, f"{GRID}/{name}", disk.contents(str(source)))
        for key, note in sorted(incompatible.items()):
            _add(archive, f"{INCOMPATIBLE}/{key}.json", _json(note))
        for one in chosen:
            _add_object(archive, store, one)
    packed.size = path.stat().st_size
    return packed


def _choose(store: Store, manifest: Manifest, choose: Callable[[str], bool]) -> _Chosen:
    """Describe what of an object goes into a pack. Raises Unreadable where it is gone by now."""
    key = manifest.key
    files = {}
    for name, entry in manifest.files.items():
        if name not in manifest.absent and choose(name):
            files[name] = entry["sha256"]
    return _Chosen(
        key,
        disk.read(str(store.folder(key) / MANIFEST)),
        files,
        frozenset(manifest.files.keys() - files.keys()),
        store.log(key) is not None,
    )


def _add_object(archive: zipfile.ZipFile, store: Store, one: _Chosen) -> None:
    """Add what was chosen of an object. Raises PackError where it has changed meanwhile."""
    folder = store.folder(one.key)
    _add(archive, f"{place(one.key)}/{MANIFEST}", one.manifest)
    if one.left_out:
        _add(archive, f"{place(one.key)}/{partial.LEFT_OUT}", partial.text(one.left_out))
    names: Sequence[str] = sorted(one.files)
    if one.has_log:
        names = [*names, LOG]
    for name in names:
        try:
            checksum = _copy(archive, f"{place(one.key)}/{name}", folder / name)
        except (disk.Unreadable, FileNotFoundError) as error:
            raise _changed(one.key, str(error)) from error
        if name != LOG and checksum != one.files[name]:
            raise _changed(one.key, f"{name} is another")


def _changed(key: str, what: str) -> PackError:
    return PackError(f"object {key} changed while it was packed: {what}. Pack again")


def _copy(archive: zipfile.ZipFile, name: str, source: Path) -> str:
    """Add a file, piece by piece; return its SHA-256."""
    info = _info(name)
    info.file_size = source.stat().st_size  # decides on the form of its entry
    checksum = hashlib.sha256()
    with archive.open(info, "w") as target:
        for chunk in disk.chunks(source):
            checksum.update(chunk)
            target.write(chunk)
    return checksum.hexdigest()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(_info(name), data)


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.create_system = _UNIX
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"


@contextmanager
def _written(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a new archive, which takes the place of `path` once it is complete and on the disk."""
    if path.exists() and not path.is_file():
        raise PackError(f"{path}: is no plain file. -o names the file that becomes the pack")
    target = path.resolve()
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with unfinished.open("wb") as stream:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
                yield archive
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(target)
    finally:
        with suppress(OSError):
            unfinished.unlink()
