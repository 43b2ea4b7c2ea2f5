"""Reading a pack that somebody else wrote.

It may hold anything, so its form is checked when it is opened: plain files in the places that
`packs` describes, each once, none compressed or encrypted, none over another, together no larger
than the pack.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from harness.store import disk, foreign, partial, plain
from harness.store.manifest import LOG, MANIFEST, Manifest
from harness.store.packs import ABOUT, FORMAT, GRID, INCOMPATIBLE, OBJECTS, OWN, PackError

_OBJECT = re.compile(rf"{OBJECTS}/(?P<shard>[0-9a-f]{{2}})/(?P<key>[0-9a-f]{{64}})/(?P<name>.+)")
_NOTE = re.compile(rf"{INCOMPATIBLE}/(?P<key>[0-9a-f]{{64}})\.json")
_ENCRYPTED = 1
_UNREADABLE = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    EOFError,
    OSError,
    struct.error,
)
"""Errors of `zipfile` that mean that a file is none that it reads."""
_PIECE = 1 << 20
_NOTE_TEXTS = ("kind", "title", "message")
_LONGEST = 4000
"""Characters of a text in a note that are kept."""


class Pack:
    """A pack that is open for reading: `about` is its PACK.json, `keys` those of its objects."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        """Take a zip file of this size in bytes. Raises PackError where its form is none of a
        pack's.
        """
        self._archive = archive
        self._objects: dict[str, dict[str, zipfile.ZipInfo]] = defaultdict(dict)
        self._notes: dict[str, zipfile.ZipInfo] = {}
        self.grid: list[str] = []
        """Names of the grid's files."""
        entries = _checked(archive.infolist(), size)
        if ABOUT not in entries:
            raise PackError(f"it holds no {ABOUT}: `bench pack` has not made it")
        self.about = self._about(entries.pop(ABOUT))
        for name, info in entries.items():
            self._sort(name, info)
        self._compare()

    @property
    def keys(self) -> list[str]:
        """The keys of all objects, sorted."""
        return sorted(self._objects)

    def manifest(self, key: str) -> Manifest:
        """Return the manifest of an object of the pack; `absent` are the files that it does not
        hold. Raises ValueError where it is none, or not of this object.
        """
        entries = self._objects[key]
        if MANIFEST not in entries:
            raise ValueError(f"it has no {MANIFEST}")
        data = self._content(entries[MANIFEST])
        manifest = Manifest.load(data, key)
        foreign.check(manifest, data)
        left_out: frozenset[str] = frozenset()
        if partial.LEFT_OUT in entries:
            left_out = partial.read(self._content(entries[partial.LEFT_OUT]))
        held = entries.keys() - OWN
        if held | left_out != manifest.files.keys() or held & left_out:
            raise ValueError(f"its files are not those that its {MANIFEST} lists")
        return Manifest(key, manifest.members, left_out)

    def copy(self, key: str, name: str, target: Path) -> tuple[int, str]:
        """Copy a file of an object, durably; return size and SHA-256 of what was copied. Raises
        ValueError where the pack is damaged there, and OSError for the target.
        """
        checksum = hashlib.sha256()
        size = 0
        with self._entry(self._objects[key][name]) as source, target.open("wb") as stream:
            while chunk := _read(source, _PIECE):
                checksum.update(chunk)
                size += len(chunk)
                stream.write(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        return size, checksum.hexdigest()

    def has_log(self, key: str) -> bool:
        """Tell whether there is a log of the stage that made an object."""
        return LOG in self._objects[key]

    def incompatible(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield key and note of each stage that makes no sense. Raises ValueError."""
        for key, info in sorted(self._notes.items()):
            table = plain.table(self._content(info))
            note = {"status": "incompatible", "type": "Incompatible", "outcome": "incompatible"}
            for name in _NOTE_TEXTS:
                note[name] = plain.clean(str(table.get(name, "")))[:_LONGEST]
            yield key, note

    def _about(self, info: zipfile.ZipInfo) -> dict[str, Any]:
        try:
            about = plain.table(self._content(info))
        except ValueError as error:
            raise PackError(f"its {ABOUT} is not as it should be: {error}") from error
        if about.get("format") != FORMAT:
            raise PackError(
                f"it is a pack of format {about.get('format')!r}, but this version reads format "
                f"{FORMAT}. Use the version that made it"
            )
        return about

    def _sort(self, name: str, info: zipfile.ZipInfo) -> None:
        """Note where an entry belongs. Raises PackError for one that belongs nowhere."""
        part = _OBJECT.fullmatch(name)
        note = _NOTE.fullmatch(name)
        if part is not None and part["key"].startswith(part["shard"]):
            self._objects[part["key"]][part["name"]] = info
        elif note is not None:
            self._notes[note["key"]] = info
        elif name.startswith(f"{GRID}/"):
            self.grid.append(name)
        else:
            raise PackError(f"it holds {name!r}, which has no place in a pack")

    def _compare(self) -> None:
        """Raise PackError where the pack has other objects than its PACK.json lists."""
        listed = self.about.get("objects")
        if not isinstance(listed, dict) or listed.keys() != self._objects.keys():
            raise PackError(f"it holds other objects than its {ABOUT} lists")
        for key, names in listed.items():
            if names != sorted(self._objects[key].keys() - OWN):
                raise PackError(f"it holds other files of object {key} than its {ABOUT} lists")
        if self.about.get("incompatible") != sorted(self._notes):
            raise PackError(f"it holds other notes than its {ABOUT} lists")

    def _content(self, info: zipfile.ZipInfo) -> bytes:
        if info.file_size > plain.LIMIT:
            raise ValueError(f"{info.filename} has more than {plain.LIMIT:,} bytes")
        with self._entry(info) as source:
            return _read(source, plain.LIMIT)

    @contextmanager
    def _entry(self, info: zipfile.ZipInfo) -> Iterator[BinaryIO]:
        """Open an entry. Raises ValueError where its own header is not that of the directory."""
        try:
            source = self._archive.open(info)
        except _UNREADABLE as error:
            raise ValueError(f"{info.filename} cannot be read: {error}") from error
        with source:
            yield source  # type: ignore[misc]


def _read(source: BinaryIO, most: int) -> bytes:
    try:
        return source.read(most)
    except _UNREADABLE as error:
        raise ValueError(f"the pack is damaged: {error}") from error


@contextmanager
def opened(path: Path) -> Iterator[Pack]:
    """Open a pack. Raises PackError, which names the file, where it is none."""
    try:
        descriptor = plain.opened(path.resolve())
    except OSError as error:
        raise PackError(f"{path}: {error.strerror}. Name a file that `bench pack` made") from error
    except plain.NotPlain as error:
        raise PackError(f"{error}. Name a file that `bench pack` made") from error
    with os.fdopen(descriptor, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        try:
            archive = zipfile.ZipFile(stream)
        except _UNREADABLE as error:
            raise PackError(f"{path}: is no pack, or not whole: {error}") from error
        with archive:
            try:
                pack = Pack(archive, size)
            except PackError as error:
                raise PackError(f"{path}: {error}. Nothing was unpacked") from error
            yield pack


# --- the form of the file -------------------------------------------------------------------------


def _checked(infos: list[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the entries of a zip file of `size` bytes by name. Raises PackError for what is in no
    pack.
    """
    entries: dict[str, zipfile.ZipInfo] = {}
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        _check_entry(info)
        if info.filename in entries:
            raise PackError(f"it holds {info.filename!r} twice")
        entries[info.filename] = info
        if info.header_offset < end:
            raise PackError(f"it holds {info.filename!r} in the same place as another file")
        end = info.header_offset + info.file_size
    if end > size:
        raise PackError("it is cut off")
    for name in entries:
        above = name.rpartition("/")[0]
        while above:
            if above in entries:
                raise PackError(f"it holds {above!r} as a file and as a folder")
            above = above.rpartition("/")[0]
    return entries


def _check_entry(info: zipfile.ZipInfo) -> None:
    """Raise PackError for an entry that is no plain, uncompressed file with a name of our kind."""
    name = info.filename
    # `filename` ends at the first null character, which is what others see of it.
    if info.orig_filename != name or "\\" in name or not disk.inside(name):
        raise PackError(f"it holds {info.orig_filename!r}, which leads out of the pack")
    if len(name) > disk.LONGEST:
        raise PackError(f"it holds a name of {len(name)} characters: at most {disk.LONGEST}")
    try:
        plain.check_name(name)
    except ValueError as error:
        raise PackError(str(error)) from error
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise PackError(f"it holds {name!r}, which is a link, a device or a folder")
    if info.flag_bits & _ENCRYPTED:
        raise PackError(f"it holds {name!r} encrypted")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise PackError(f"it holds {name!r} compressed, which packs never do")
