"""What the store knows of one object: manifest.json, sealed with a checksum of its own text."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypedDict

from harness import disk, keys

MANIFEST = "manifest.json"
LOG = "log.txt"

_SEAL = b',\n "seal": "'
_END = b'"\n}\n'


class FileEntry(TypedDict):
    """`size` in bytes, `sha256` 64 hex digits."""

    size: int
    sha256: str


class Parent(TypedDict):
    """`key` of an object this one was made from, and its content `digest` at that time."""

    key: str
    digest: str


@dataclass(frozen=True)
class Manifest:
    """One object: what it is (`spec`, `code`), what it holds (`files`), what it was made from (`parents` by role), and
    how it came about (`record`: environment, timings, peak memory, precision used, ...).
    """

    key: str
    spec: dict[str, Any]
    code: dict[str, str]
    files: dict[str, FileEntry]
    parents: dict[str, Parent]
    record: dict[str, Any]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of names, sizes and checksums of all files: equal content has equal digests, however it was made."""
        return keys.digest(self.files)

    def dump(self) -> bytes:
        """The text of manifest.json. Raises ValueError where something is not JSON (NaN, an object)."""
        try:
            text = json.dumps(_table(self), indent=1, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"object {self.key}: what describes it cannot be written as JSON: {error}") from error
        head = text.removesuffix("\n}").encode()
        return head + _SEAL + hashlib.sha256(head).hexdigest().encode() + _END

    @classmethod
    def load(cls, data: bytes, key: str) -> Self:
        """From the text of manifest.json. Raises ValueError where it is not whole or belongs to another key."""
        head, _, tail = data.rpartition(_SEAL)
        if tail != hashlib.sha256(head).hexdigest().encode() + _END:
            raise ValueError("its manifest.json is truncated or altered")
        table = json.loads(data)
        del table["seal"]
        try:
            manifest = cls(**table)
        except TypeError as error:
            raise ValueError(f"its manifest.json has other members than expected: {error}") from error
        if manifest.key != key:
            raise ValueError(f"its manifest.json is of {manifest.key}")
        return manifest


def _table(manifest: Manifest) -> Mapping[str, Any]:
    # dataclasses.asdict copies deeply; vars would bring the cached digest along.
    return {name: getattr(manifest, name) for name in manifest.__dataclass_fields__}


def fill(work: Path, files: Mapping[str, Path], log: Path | None, empty: Manifest) -> Manifest:
    """Copy everything into the new folder `work`, durably, manifest.json last; `empty` with its files filled in."""
    entries: dict[str, FileEntry] = {}
    folders = {work}
    for name, source in files.items():
        target = work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        folders.update(parent for parent in target.parents if parent.is_relative_to(work))
        size, checksum = disk.copy(source, target, durable=True)
        entries[name] = FileEntry(size=size, sha256=checksum)
    if log is not None and log.is_file():
        disk.copy(log, work / LOG)
    data = Manifest(empty.key, empty.spec, empty.code, entries, empty.parents, empty.record).dump()
    disk.write(work / MANIFEST, data)
    for folder in folders:
        disk.sync(folder)
    return Manifest.load(data, empty.key)
