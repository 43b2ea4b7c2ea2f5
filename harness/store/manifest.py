"""What the store knows of one object: manifest.json, sealed with a checksum of its own text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypedDict

from harness import keys
from harness.store import disk

MANIFEST = "manifest.json"
LOG = "log.txt"

_SEAL = b',\n "seal": "'
_END = b'"\n}\n'
_MEMBERS = frozenset({"code", "files", "key", "parents", "record", "spec"})
_DECODER = json.JSONDecoder()


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
    """One object, after its manifest.json: `members` are texts of JSON values.

    A plan looks at tens of thousands of these and at two members of each, so a member is parsed
    when it is asked for.
    """

    key: str
    members: Mapping[str, str] = field(repr=False)

    @classmethod
    def load(cls, data: bytes, key: str) -> Self:
        """From the bytes of manifest.json. Raises ValueError where it is not whole or belongs to
        another key.
        """
        head, _, tail = data.rpartition(_SEAL)
        if tail != hashlib.sha256(head).hexdigest().encode() + _END:
            raise ValueError("its manifest.json is truncated or altered")
        # It is as `dump` wrote it, then: nothing but a member stands on a line of its own after one
        # space.
        members = dict(part.split('": ', 1) for part in head.decode().split('\n "')[1:])
        if lacking := _MEMBERS - members.keys():
            raise ValueError(f"its manifest.json has no {', '.join(sorted(lacking))}")
        if members["key"] != f'"{key}",':
            raise ValueError(f"its manifest.json is of {members['key']}")
        return cls(key, members)

    @cached_property
    def spec(self) -> dict[str, Any]:
        """What it is: the settings that its key is the digest of."""
        return self._table("spec")

    @cached_property
    def code(self) -> dict[str, str]:
        """The sources that it was made with."""
        return self._table("code")

    @cached_property
    def files(self) -> dict[str, FileEntry]:
        """What it holds."""
        return self._table("files")

    @cached_property
    def parents(self) -> dict[str, Parent]:
        """What it was made from, by role."""
        return self._table("parents")

    @cached_property
    def record(self) -> dict[str, Any]:
        """How it came about: environment, timings, peak memory, precision used, ..."""
        return self._table("record")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of names, sizes and checksums of all files: equal content has equal digests,
        however it was made.
        """
        return keys.digest(self.files)

    def only(self, *names: str) -> Self:
        """With these members alone, unparsed: what is kept of tens of thousands."""
        return type(self)(self.key, {name: self.members[name] for name in names})

    def _table(self, name: str) -> dict[str, Any]:
        table: dict[str, Any] = _DECODER.raw_decode(self.members[name])[0]  # a comma may follow
        return table


def dump(
    key: str,
    *,
    spec: Mapping[str, Any],
    code: Mapping[str, str],
    files: Mapping[str, FileEntry],
    parents: Mapping[str, Parent],
    record: Mapping[str, Any],
) -> bytes:
    """The bytes of manifest.json, sealed. Raises ValueError where something is not JSON (NaN, an
    object).
    """
    table = {
        "key": key,
        "spec": spec,
        "code": code,
        "files": files,
        "parents": parents,
        "record": record,
    }
    try:
        text = json.dumps(table, indent=1, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"object {key}: what describes it cannot be written as JSON: {error}"
        ) from error
    head = text.removesuffix("\n}").encode()
    return head + _SEAL + hashlib.sha256(head).hexdigest().encode() + _END


def fill(
    work: Path, files: Mapping[str, Path], log: Path | None, key: str, about: Mapping[str, Any]
) -> Manifest:
    """Copy everything into the new folder `work`, durably, manifest.json last; `about` is what
    `dump` takes.
    """
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
    data = dump(key, files=entries, **about)
    disk.write(work / MANIFEST, data)
    for folder in folders:
        disk.sync(folder)
    return Manifest.load(data, key)
