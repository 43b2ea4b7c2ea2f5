"""What is kept of unfinished work, beside the store's objects: one checkpoint for each key.

`checkpoints/<key>/<number>/` holds manifest.json and the files that it lists, like an object. It is
filled in `tmp/`, checksummed, synced, and appears with one rename; then the one before it goes.
Only the holder of the key's lock writes or removes one. Losing one costs time, never a result.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.store import disk
from harness.store.manifest import MANIFEST, Manifest, Parent, fill

_log = logging.getLogger("harness.store.checkpoints")


class Checkpoints:
    """`checkpoints/` of the store in folder `root`."""

    def __init__(self, root: Path) -> None:
        """Take the absolute path of the store's folder."""
        self.root = root

    def keep(
        self,
        key: str,
        files: Mapping[str, Path],
        *,
        spec: Mapping[str, Any],
        code: Mapping[str, str],
        parents: Mapping[str, tuple[str, str]],
        record: Mapping[str, Any],
    ) -> None:
        """Keep copies of `files` in the place of what was kept under the key.

        `parents`: key and content digest of each input, by role. Raises Unreadable for a file that
        is gone or changes, and StoreError where the store cannot be written.
        """
        lineage = {}
        for role, (parent, digest) in parents.items():
            lineage[role] = Parent(key=parent, digest=digest)
        about = {"spec": spec, "code": code, "parents": lineage, "record": record}
        with disk.writing(self.root):
            work = self.root / "tmp" / disk.owned(key)
            work.mkdir(parents=True)
            try:
                fill(work, files, None, key, about)
                folder = self._folder(key)
                folder.mkdir(parents=True, exist_ok=True)
                before = self._numbers(key)
                number = max(before, default=0) + 1
                work.rename(folder / str(number))
                disk.sync(folder)
                for earlier in before:
                    shutil.rmtree(folder / str(earlier), ignore_errors=True)
            finally:
                shutil.rmtree(work, ignore_errors=True)

    def manifest(self, key: str) -> Manifest | None:
        """Return the manifest of the newest checkpoint of a key; None if there is none. What is
        damaged is removed, with a warning.
        """
        newest = self._newest(key)
        return None if newest is None else newest[1]

    def fetch(self, key: str, into: Path) -> Manifest | None:
        """Copy the newest checkpoint of a key into a new folder, and return its manifest; None if
        there is none. Each file is compared with its SHA-256; what is damaged is removed, with a
        warning. Raises OSError where `into` cannot be written.
        """
        while True:
            newest = self._newest(key)
            if newest is None:
                return None
            place, manifest = newest
            into.mkdir()
            try:
                for name, entry in manifest.files.items():
                    if not disk.inside(name):
                        raise disk.Unreadable(f"it lists {name!r}, which leads out of it")
                    target = into / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    size, checksum = disk.copy(place / name, target)
                    if size != entry["size"] or checksum != entry["sha256"]:
                        raise disk.Unreadable(
                            f"{name} is altered: its SHA-256 is not the one recorded"
                        )
            except disk.Unreadable as error:
                shutil.rmtree(into)
                self._remove(key, place, str(error))
            else:
                return manifest

    def verify(self, key: str) -> bool:
        """Compare what is kept under a key with its SHA-256; tell whether it is there, and whole.
        What is damaged is removed, with a warning. For the holder of the key's lock.
        """
        before = set(self._numbers(key))
        newest = self._newest(key)
        if newest is not None:
            place, manifest = newest
            try:
                for name, entry in manifest.files.items():
                    if not disk.inside(name) or disk.checksum(place / name) != entry["sha256"]:
                        raise disk.Unreadable(
                            f"{name} is altered: its SHA-256 is not the one recorded"
                        )
            except disk.Unreadable as error:
                self._remove(key, place, str(error))
        left = set(self._numbers(key))
        if not left:
            self.drop(key)
        return bool(left) and left == before

    def drop(self, key: str) -> None:
        """Remove what is kept under a key. Trouble with the disk is ignored."""
        shutil.rmtree(self._folder(key), ignore_errors=True)

    def held(self) -> list[str]:
        """Return the keys that something may be kept of, sorted."""
        names = disk.names(f"{self.root}/checkpoints")
        return sorted(name for name in names if disk.KEY.fullmatch(name))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of work that are kept, by key."""
        kept = {}
        for key in self.held():
            manifest = self.manifest(key)
            if manifest is not None:
                kept[key] = float(manifest.record["seconds"])
        return kept

    def _newest(self, key: str) -> tuple[Path, Manifest] | None:
        for number in sorted(self._numbers(key), reverse=True):
            place = self._folder(key) / str(number)
            try:
                return place, Manifest.load(disk.read(str(place / MANIFEST)), key)
            except ValueError as error:
                self._remove(key, place, str(error))
            except OSError as error:
                _log.warning("checkpoint %s cannot be read: %s", place, error.strerror)
        return None

    def _numbers(self, key: str) -> list[int]:
        return list(_whole_numbers(disk.names(str(self._folder(key)))))

    def _remove(self, key: str, place: Path, reason: str) -> None:
        if not place.exists():
            return  # its key has been committed meanwhile
        _log.warning(
            "checkpoint of %s is damaged: %s. It is removed, and the work starts over", key, reason
        )
        shutil.rmtree(place, ignore_errors=True)

    def _folder(self, key: str) -> Path:
        return self.root / "checkpoints" / disk.checked(key)


def _whole_numbers(names: set[str]) -> Iterator[int]:
    for name in names:
        if name.isascii() and name.isdecimal():
            yield int(name)
