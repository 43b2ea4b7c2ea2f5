"""The store, which holds finished work under its key, whole or not at all.

`objects/ab/<key>/` holds manifest.json beside the files it lists (and a log, which it does not). An
object is filled in `tmp/`, checksummed, synced, and appears with one rename: the first writer wins,
a crash leaves something in `tmp/` only. Nothing here is ever unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.store import disk, partial
from harness.store.checkpoints import Checkpoints
from harness.store.disk import DiskFull
from harness.store.layout import open_root
from harness.store.manifest import (
    LOG,
    MANIFEST,
    FileEntry,
    Manifest,
    Parent,
    dump,
    fill,
)
from harness.store.notes import Notes

__all__ = ["Damaged", "DiskFull", "Manifest", "Store", "StoreError"]

_TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}
"""Errors of a rename that mean that something lies in the object's place already."""

_NOTHING_KNOWN: Mapping[str, str | None] = {}

_log = logging.getLogger("harness.store.objects")


class Damaged(StoreError):
    """Raised for an object that is not there or not whole (then it has been set aside): it must be
    made again.
    """

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"object {key}: {reason}")


class Store(Notes):
    """Objects by key (64 hex digits), for many threads, processes and machines at once.

    Raises StoreError where the folder cannot be used, and ValueError for a key that is no key.
    """

    def __init__(self, root: Path) -> None:
        """Open the store in folder `root`, or make one there if the folder is missing or empty."""
        super().__init__(Path(root).absolute())
        self.checkpoints = Checkpoints(self.root)
        self._digests: dict[str, tuple[tuple[int, int, int], str]] = {}
        """Content digests by key, each after the times, inode and size that its manifest had."""
        with disk.writing(self.root):
            open_root(self.root)

    def folder(self, key: str) -> Path:
        """Return the path of the folder of an object, whether it is there or not."""
        return Path(self._place(key))

    def _place(self, key: str) -> str:
        return f"{self.root}/objects/{key[:2]}/{disk.checked(key)}"

    # --- reading ----------------------------------------------------------------------------------

    def manifest(self, key: str) -> Manifest | None:
        """Return what the store knows of an object, or None if it is absent.

        The manifest must be whole, and every file it lists a plain file of its size inside the
        object, unless it was left out of a pack; otherwise the object is set aside, and the answer
        is None.
        """
        place = self._place(key)
        try:
            return self._whole_manifest(key, place)
        except ValueError as error:
            self.set_aside(key, str(error))
            return None
        except OSError as error:
            culprit = error.filename or place
            if error.errno not in disk.DAMAGE:
                raise StoreError(
                    f"{culprit}: {error.strerror}. The store must be readable"
                ) from error
            if not os.path.exists(place):  # noqa: PTH110 - no pathlib here either
                return None
            missing = Path(culprit)
            if missing.name == MANIFEST and missing.is_file():  # committed since we looked
                return self.manifest(key)
            self.set_aside(key, f"{missing.name}: {error.strerror}")
            return None

    def _whole_manifest(self, key: str, place: str) -> Manifest:
        """Return the manifest of the object in folder `place`.

        Raises ValueError where it is altered or a file has another size, and OSError.
        """
        # With thousands of objects in a plan this is where its time goes: pathlib would double it.
        manifest = Manifest.load(disk.contents(f"{place}/{MANIFEST}"), key)
        if not manifest.files:
            raise ValueError("its manifest.json lists no files")
        absent = set()
        for name, entry in manifest.files.items():
            if not disk.inside(name):
                raise ValueError(f"its manifest.json lists {name!r}, which leads out of the object")
            try:
                status = os.lstat(f"{place}/{name}")
            except FileNotFoundError:
                if name not in partial.left_out(place):
                    raise
                absent.add(name)
                continue
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{name} is no plain file")
            if status.st_size != entry["size"]:
                raise ValueError(f"{name} has {status.st_size} bytes, not {entry['size']} bytes")
        return replace(manifest, absent=frozenset(absent)) if absent else manifest

    def has(self, key: str) -> bool:
        """Tell whether the object is there, whole (by sizes), with nothing left out, and made from
        parents as they are in the store now.
        """
        manifest = self.manifest(key)
        return manifest is not None and not manifest.absent and not self.outdated(manifest)

    def outdated(
        self, manifest: Manifest, known: Mapping[str, str | None] = _NOTHING_KNOWN
    ) -> list[str]:
        """Return the roles of parents whose content is another than the object was made from.

        A parent since deleted is no change. `known`: content digests by key, None for what is not
        there, that need not be looked up again.
        """
        changed = []
        for role, parent in manifest.parents.items():
            key = parent["key"]
            digest = known[key] if key in known else self._digest(key)
            if digest is not None and digest != parent["digest"]:
                changed.append(role)
        return changed

    def _digest(self, key: str) -> str | None:
        """Return the content digest of an object, or None if it is absent."""
        # Objects share parents; an object never changes in place, so one stat tells.
        try:
            status = os.stat(f"{self._place(key)}/{MANIFEST}")  # noqa: PTH116
        except OSError:
            return None
        identity = (status.st_mtime_ns, status.st_ino, status.st_size)
        if key in self._digests:
            known_identity, known_digest = self._digests[key]
            if known_identity == identity:
                return known_digest
        manifest = self.manifest(key)
        if manifest is None:
            return None
        self._digests[key] = (identity, manifest.digest)
        return manifest.digest

    def fetch(self, key: str, names: Sequence[str], into: Path) -> dict[str, FileEntry]:
        """Copy the files that match one of the patterns `names` (fnmatch; * also matches /) into a
        folder, made if missing; return their entries in the manifest, by name.

        Each is checked against its SHA-256 on the way. Raises Damaged if the object is absent, or a
        file is altered or was left out; OSError if `into` cannot be written. A pattern that matches
        nothing copies nothing.
        """
        manifest = self._present(key)
        lacking = partial.lacking(manifest.absent, names)
        if lacking:
            raise Damaged(key, partial.reason(lacking))
        copied = {}
        for name, entry in manifest.files.items():
            if not any(fnmatchcase(name, pattern) for pattern in names):
                continue
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                size, checksum = disk.copy(self.folder(key) / name, target)
            except disk.Unreadable as error:
                target.unlink(missing_ok=True)
                raise self._damage(key, str(error)) from error
            if size != entry["size"] or checksum != entry["sha256"]:
                target.unlink()
                raise self._damage(key, f"{name} is altered: its SHA-256 is not the one recorded")
            copied[name] = entry
        return copied

    def read(self, key: str, name: str, manifest: Manifest | None = None) -> bytes:
        """Return one file's bytes, checked against its SHA-256. Raises Damaged, and ValueError for
        a file that the object does not hold.

        `manifest` is that of `key`, where it has been read before (its `files` are enough): it
        saves reading it again, unless another object has taken the place since.
        """
        if manifest is not None and name in manifest.files.keys() - manifest.absent:
            with suppress(disk.Unreadable):
                return self._whole_file(key, name, manifest)
        manifest = self._present(key)
        if name not in manifest.files:
            held = ", ".join(manifest.files) or "no files"
            raise ValueError(f"object {key} holds no {name!r}. It holds: {held}")
        if name in manifest.absent:
            raise Damaged(key, partial.reason([name]))
        try:
            return self._whole_file(key, name, manifest)
        except disk.Unreadable as error:
            raise self._damage(key, str(error)) from error

    def _whole_file(self, key: str, name: str, manifest: Manifest) -> bytes:
        """Return one file's bytes. Raises Unreadable, also where they are not those that the
        manifest describes.
        """
        data = disk.read(f"{self._place(key)}/{name}")
        if hashlib.sha256(data).hexdigest() != manifest.files[name]["sha256"]:
            raise disk.Unreadable(f"{name} is altered: its SHA-256 is not the one recorded")
        return data

    def read_json(self, key: str, name: str, manifest: Manifest | None = None) -> Any:
        """Return one JSON file's value; raise what `read` raises."""
        return json.loads(self.read(key, name, manifest))

    def keys(self) -> Iterator[str]:
        """Yield the keys of all objects, sorted, without a look at whether they are whole."""
        for shard in sorted(disk.names(f"{self.root}/objects")):
            for name in sorted(disk.names(f"{self.root}/objects/{shard}")):
                if disk.KEY.fullmatch(name):
                    yield name

    def held(self, keys: Iterable[str]) -> set[str]:
        """Return those of `keys` under which there is an object, whole or not."""
        shards = defaultdict(set)
        for key in keys:
            shards[key[:2]].add(key)
        held = set()
        # Asking for each key would take a hundred times as long where there are many.
        for shard, asked in shards.items():
            held |= asked & disk.names(f"{self.root}/objects/{shard}")
        return held

    def log(self, key: str) -> Path | None:
        """Return the path of the log of the stage that made an object, or None if it left none."""
        path = self.folder(key) / LOG
        if path.is_file():
            return path
        return None

    def _present(self, key: str) -> Manifest:
        manifest = self.manifest(key)
        if manifest is None:
            raise Damaged(key, "not in the store, or not whole")
        return manifest

    def _damage(self, key: str, reason: str) -> Damaged:
        self.set_aside(key, reason)
        return Damaged(key, reason)

    # --- writing ----------------------------------------------------------------------------------

    def commit(
        self,
        key: str,
        folder: Path,
        *,
        spec: Mapping[str, Any],
        code: Mapping[str, str],
        parents: Mapping[str, tuple[str, str]],
        record: Mapping[str, Any],
        log: Path | None = None,
    ) -> Manifest:
        """Store copies of all files below `folder` as object `key`; clears its failure.

        `parents`: key and content digest by role. `log` (else log.txt in `folder`) is kept beside
        the files but is no part of the content. If another writer was first, theirs stays and is
        returned; an object made from other parents than the store holds now, or a damaged one, is
        set aside and replaced, and one of which files were left out is replaced. Raises DiskFull or
        StoreError, leaving no part of an object; ValueError where `folder` or what describes the
        object cannot be stored.
        """
        made = self._current(key)
        if made is None:
            files = disk.outputs(folder)
            own_log = files.pop(LOG, None)
            if not files:
                raise ValueError(f"{folder}: holds no file, so there is nothing to store")
            if MANIFEST in files:
                raise ValueError(
                    f"{files[MANIFEST]}: the name is the store's own. Give the file another"
                )
            lineage = {}
            for role, (parent, digest) in parents.items():
                lineage[role] = Parent(key=parent, digest=digest)
            about = {"spec": spec, "code": code, "parents": lineage, "record": record}
            # What cannot be described is refused before anything is copied.
            dump(key, files={}, **about)
            with disk.writing(self.root), self.workspace(key) as work:
                manifest = fill(work, files, log or own_log, key, about)
                made = self.publish(manifest, work)
        self.clear_failure(key)
        self.checkpoints.drop(key)
        return made

    @contextmanager
    def workspace(self, key: str) -> Iterator[Path]:
        """Make a folder to fill an object in, and remove it at the end."""
        work = self.root / "tmp" / disk.owned(key)
        work.mkdir(parents=True)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)  # gone already if it became the object

    def publish(self, manifest: Manifest, work: Path) -> Manifest:
        """Make the filled folder `work` the object, and return what is there now."""
        target = self.folder(manifest.key)
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            disk.sync(target.parent.parent)
        for _ in range(5):
            try:
                work.rename(target)
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
                theirs = self._current(manifest.key)
                if theirs is not None:
                    return theirs
                partial_one = self.manifest(manifest.key)
                if partial_one is not None and partial_one.absent:
                    self.remove(manifest.key)
            else:
                disk.sync(target.parent)
                return manifest
        raise StoreError(f"{target}: is damaged and cannot be moved away. Remove it by hand")

    def _current(self, key: str) -> Manifest | None:
        """Return the object if `has`; set aside what is damaged, or made from something else."""
        manifest = self.manifest(key)
        if manifest is None:
            return None
        if manifest.absent:  # it stays until a whole one can take its place
            return None
        changed = self.outdated(manifest)
        if not changed:
            return manifest
        roles = ", ".join(changed)
        self.set_aside(key, f"it was made from another {roles} than the store holds now")
        return None

    def set_aside(self, key: str, reason: str) -> None:
        """Move an object out of the way, to `tmp/damaged.*`, and log a warning.

        Does nothing for one that is not there.
        """
        aside = self.root / "tmp" / f"damaged.{key[:16]}.{secrets.token_hex(4)}"
        try:
            aside.parent.mkdir(exist_ok=True)
            self.folder(key).rename(aside)
        except FileNotFoundError:
            return
        except OSError as error:
            _log.warning(
                "object %s cannot be used: %s. It cannot be moved either: %s", key, reason, error
            )
            return
        _log.warning(
            "object %s cannot be used: %s. It was moved to %s and will be made again",
            key,
            reason,
            aside,
        )

    def remove(self, key: str) -> None:
        """Delete an object, in one step for whoever looks. Does nothing for one that is not there.
        Raises StoreError.
        """
        doomed = self.root / "tmp" / disk.owned(key)
        with disk.writing(self.root):
            doomed.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):
                self.folder(key).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def tidy(self) -> None:
        """Remove from `tmp/` and `live/` what dead processes of this machine left there, and
        checkpoints of work that is done.
        """
        for path in (self.root / "tmp").glob("*"):
            if disk.abandoned(path.name):
                shutil.rmtree(path, ignore_errors=True)
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        for key, status in self.lives().items():
            if disk.abandoned_status(status):
                self.live(key, None)
        for key in self.checkpoints.held():
            if self.has(key):  # the run was killed between the commit and the removal
                self.checkpoints.drop(key)
