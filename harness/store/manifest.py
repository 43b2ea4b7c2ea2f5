"""The description of one object: manifest.json, sealed with a checksum of its own text.

The file is JSON as `dump` writes it, one member after another:

    {
     "code": {
      ...
     },
     "files": {
      ...
     },
     ...
     "seal": "<SHA-256 of all text before this member>"
    }
"""

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


class FileEntry(TypedDict):
    """A file of an object: `size` in bytes, `sha256` 64 hex digits."""

    size: int
    sha256: str


class Parent(TypedDict):
    """An object that another was made from: `key`, and its content `digest` at that time."""

    key: str
    digest: str


@dataclass(frozen=True)
class Manifest:
    """One object, as its manifest.json describes it: `members` are texts of JSON values. `absent`:
    files that it lists and the store does not have, as they were left out of a pack.

    A plan looks at tens of thousands of these, needs two members of each and keeps two, so a member
    is parsed when it is asked for. With whole files parsed by `json.loads`, a manifest takes 1.6
    times as long, and `bench plan` of 10,000 finished cells (33,300 manifests) 1.2 times as long
    and 313 MB instead of 179 MB.
    """

    key: str
    members: Mapping[str, str] = field(repr=False)
    absent: frozenset[str] = frozenset()

    @classmethod
    def load(cls, data: bytes, key: str) -> Self:
        """Read the bytes of manifest.json. Raises ValueError where it is not whole or belongs to
        another key.
        """
        head, _, tail = data.rpartition(_SEAL)
        if tail != _sealed(head):
            raise ValueError("its manifest.json is truncated or altered")
        members = _split(head.decode())
        lacking = _MEMBERS - members.keys()
        if lacking:
            raise ValueError(f"its manifest.json has no {', '.join(sorted(lacking))}")
        if members["key"] != f'"{key}"':
            raise ValueError(f"its manifest.json is of {members['key']}")
        return cls(key, members)

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The settings that its key is the digest of."""
        return self._table("spec")

    @cached_property
    def code(self) -> dict[str, str]:
        """The sources that it was made with."""
        return self._table("code")

    @cached_property
    def files(self) -> dict[str, FileEntry]:
        """The files that it holds, by name."""
        return self._table("files")

    @cached_property
    def parents(self) -> dict[str, Parent]:
        """The objects that it was made from, by role."""
        return self._table("parents")

    @cached_property
    def record(self) -> dict[str, Any]:
        """The facts of its making: environment, timings, peak memory, precision used, ..."""
        return self._table("record")

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of names, sizes and checksums of all files: equal content has equal digests,
        however it was made.
        """
        return keys.digest(self.files)

    def only(self, *names: str) -> Self:
        """Return a manifest with these members alone, unparsed, as is kept of tens of thousands."""
        members = {name: self.members[name] for name in names}
        return type(self)(self.key, members, self.absent)

    def _table(self, name: str) -> dict[str, Any]:
        table: dict[str, Any] = json.loads(self.members[name])
        return table


def _sealed(head: bytes) -> bytes:
    """Return what must follow `head` and the name of the seal: the checksum, and the end."""
    return hashlib.sha256(head).hexdigest().encode() + _END


def _split(head: str) -> dict[str, str]:
    """Return the text of each member of a manifest.json, without its seal, by name.

    In the text that `dump` writes, nothing but a member begins a line with one space and a quote:
    whatever is inside a member is indented by more, and in JSON a string has no line breaks.
    """
    members = {}
    for part in head.split('\n "')[1:]:  # the opening brace stands before the first
        name, _, value = part.partition('": ')
        members[name] = value.removesuffix(",")
    return members


def dump(
    key: str,
    *,
    spec: Mapping[str, Any],
    code: Mapping[str, str],
    files: Mapping[str, FileEntry],
    parents: Mapping[str, Parent],
    record: Mapping[str, Any],
) -> bytes:
    """Return the bytes of manifest.json, sealed. Raises ValueError where something is not JSON
    (NaN, an object).
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
    return head + _SEAL + _sealed(head)


def fill(
    work: Path, files: Mapping[str, Path], log: Path | None, key: str, about: Mapping[str, Any]
) -> Manifest:
    """Copy everything into the new folder `work`, durably, manifest.json last.

    `about` is the rest of what `dump` takes.
    """
    entries: dict[str, FileEntry] = {}
    folders = {work}
    for name, source in files.items():
        target = work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        for parent in target.parents:
            if parent.is_relative_to(work):
                folders.add(parent)
        size, checksum = disk.copy(source, target, durable=True)
        entries[name] = FileEntry(size=size, sha256=checksum)
    if log is not None and log.is_file():
        disk.copy(log, work / LOG)
    data = dump(key, files=entries, **about)
    disk.write(work / MANIFEST, data)
    for folder in folders:
        disk.sync(folder)
    return Manifest.load(data, key)
