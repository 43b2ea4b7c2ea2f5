"""The store: finished work under its key, whole or not there at all.

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
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.store import disk
from harness.store.disk import DiskFull
from harness.store.manifest import LOG, MANIFEST, Manifest, Parent, dump, fill
from harness.store.notes import Notes

__all__ = ["Damaged", "DiskFull", "Manifest", "Store", "StoreError"]

FORMAT = 1

_FOLDERS = ("objects", "tmp", "locks", "live", "failures")
_MARKS = {
    ".gitignore": b"*\n",
    "CACHEDIR.TAG": b"Signature: 8a477f597d28d172789f06886806bc55\n# Results that can be computed again.\n",
}
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}

_NONE: Mapping[str, str | None] = {}

_log = logging.getLogger("harness.store.objects")


class Damaged(StoreError):
    """An object that was asked for is not there or not whole (it has been set aside): it must be
    made again.
    """

    def __init__(self, key: str, reason: str) -> None:
        self.key, self.reason = key, reason
        super().__init__(f"object {key}: {reason}")


class Store(Notes):
    """Objects by key (64 hex digits). Safe to use from many threads, processes and machines at
    once.

    Raises StoreError where the folder cannot be used, and ValueError for a key that is none.
    """

    def __init__(self, root: Path) -> None:
        """Open the store in folder `root`, or make one there if the folder is missing or empty."""
        super().__init__(Path(root).absolute())
        self._digests: dict[str, tuple[tuple[int, int, int], str]] = {}
        with disk.writing(self.root):
            self._open()

    def _open(self) -> None:
        mark = self.root / "STORE.json"
        if mark.is_file():
            found = (disk.read_table(mark) or {}).get("format")
            if found != FORMAT:
                raise StoreError(
                    f"{mark}: store format {found!r}, but this version reads format {FORMAT}. Name another folder with"
                    " --store, or use the version that made it"
                )
            return  # nothing is written, so that a store on a read-only medium can be read
        self.root.mkdir(parents=True, exist_ok=True)
        foreign = sorted(
            {path.name for path in self.root.iterdir()}
            - {*_FOLDERS, *_MARKS, mark.name, "lost+found"}
        )
        if foreign:
            raise StoreError(
                f"{self.root}: holds {foreign[0]!r} and is no store. Name a new or an empty folder"
            )
        for folder in _FOLDERS:
            (self.root / folder).mkdir(exist_ok=True)
        for name, text in _MARKS.items():
            (self.root / name).write_bytes(text)
        disk.replace(mark, json.dumps({"format": FORMAT}).encode() + b"\n", self.root / "tmp")

    def _object(self, key: str) -> Path:
        return Path(self._place(key))

    def _place(self, key: str) -> str:
        return f"{self.root}/objects/{key[:2]}/{disk.checked(key)}"

    # --- reading ----------------------------------------------------------------------------------

    def manifest(self, key: str) -> Manifest | None:
        """What the store knows of an object, or None if it is absent.

        The manifest must be whole and every file have its size; otherwise the object is set aside,
        and None.
        """
        place = self._place(key)
        try:
            # With thousands of objects in a plan this is where its time goes: pathlib would double
            # it.
            manifest = Manifest.load(disk.contents(f"{place}/{MANIFEST}"), key)
            for name, entry in manifest.files.items():
                size = os.stat(f"{place}/{name}").st_size  # noqa: PTH116
                if size != entry["size"]:
                    raise ValueError(f"{name} has {size} bytes, not {entry['size']} bytes")
        except ValueError as error:
            self.set_aside(key, str(error))
        except OSError as error:
            if error.errno not in disk.DAMAGE:
                raise StoreError(
                    f"{error.filename or place}: {error.strerror}. The store must be readable"
                ) from error
            missing = Path(error.filename or place)
            if not os.path.exists(place):  # noqa: PTH110 - as above
                return None
            if missing.name == MANIFEST and missing.is_file():  # committed since we looked
                return self.manifest(key)
            self.set_aside(key, f"{missing.name}: {error.strerror}")
        else:
            return manifest
        return None

    def has(self, key: str) -> bool:
        """Whether the object is there, whole (by sizes), and made from parents as they are in the
        store now.
        """
        manifest = self.manifest(key)
        return manifest is not None and not self.outdated(manifest)

    def outdated(self, manifest: Manifest, known: Mapping[str, str | None] = _NONE) -> list[str]:
        """Roles of parents whose content is another than the object was made from. One since
        deleted is no change.

        `known`: content digests by key, None for what is not there, that need not be looked up
        again.
        """
        changed = []
        for role, parent in manifest.parents.items():
            key = parent["key"]
            if (known[key] if key in known else self._digest(key)) not in (None, parent["digest"]):
                changed.append(role)
        return changed

    def _digest(self, key: str) -> str | None:
        # Objects share parents; an object never changes in place, so one stat tells.
        try:
            status = os.stat(f"{self._place(key)}/{MANIFEST}")  # noqa: PTH116
        except OSError:
            return None
        stamp = status.st_mtime_ns, status.st_ino, status.st_size
        known = self._digests.get(key)
        if known is None or known[0] != stamp:
            manifest = self.manifest(key)
            if manifest is None:
                return None
            known = self._digests[key] = stamp, manifest.digest
        return known[1]

    def fetch(self, key: str, names: Sequence[str], into: Path) -> None:
        """Copy the files that match one of the patterns (fnmatch; * also matches /) into a folder,
        made if missing.

        Each is checked against its SHA-256 on the way. Raises Damaged if the object is absent or a
        file is altered; OSError if `into` cannot be written. A pattern that matches nothing copies
        nothing.
        """
        manifest = self._present(key)
        for name, entry in manifest.files.items():
            if not any(fnmatchcase(name, pattern) for pattern in names):
                continue
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                size, checksum = disk.copy(self._object(key) / name, target)
            except disk.Unreadable as error:
                target.unlink(missing_ok=True)
                raise self._damage(key, str(error)) from error
            if (size, checksum) != (entry["size"], entry["sha256"]):
                target.unlink()
                raise self._damage(key, f"{name} is altered: its SHA-256 is not the one recorded")

    def read(self, key: str, name: str, manifest: Manifest | None = None) -> bytes:
        """One file's bytes, checked against its SHA-256. Raises Damaged, and ValueError for a file
        it does not hold.

        `manifest` is that of `key`, where it has been read before (its `files` are enough): it
        saves reading it again, unless another object has taken the place since.
        """
        if manifest is not None and name in manifest.files:
            with suppress(disk.Unreadable):
                return self._whole(key, name, manifest)
        manifest = self._present(key)
        if name not in manifest.files:
            raise ValueError(
                f"object {key} holds no {name!r}. It holds: {', '.join(manifest.files) or 'no files'}"
            )
        try:
            return self._whole(key, name, manifest)
        except disk.Unreadable as error:
            raise self._damage(key, str(error)) from error

    def _whole(self, key: str, name: str, manifest: Manifest) -> bytes:
        """One file's bytes. Raises Unreadable, also where they are not those that the manifest
        tells of.
        """
        data = disk.read(f"{self._place(key)}/{name}")
        if hashlib.sha256(data).hexdigest() != manifest.files[name]["sha256"]:
            raise disk.Unreadable(f"{name} is altered: its SHA-256 is not the one recorded")
        return data

    def read_json(self, key: str, name: str, manifest: Manifest | None = None) -> Any:
        """One JSON file's value; raises as `read` does."""
        return json.loads(self.read(key, name, manifest))

    def keys(self) -> Iterator[str]:
        """Keys of all objects, sorted; whether they are whole is not looked at."""
        for shard in sorted(disk.names(f"{self.root}/objects")):
            yield from sorted(
                filter(disk.KEY.fullmatch, disk.names(f"{self.root}/objects/{shard}"))
            )

    def held(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` under which there is an object; whether it is whole is not looked at."""
        wanted = defaultdict(set)
        for key in keys:
            wanted[key[:2]].add(key)
        # Asking for each would take a hundred times as long where there are many.
        return {
            name
            for shard, some in wanted.items()
            for name in some & disk.names(f"{self.root}/objects/{shard}")
        }

    def log(self, key: str) -> Path | None:
        """Where the log of the stage that made an object lies, if it left one."""
        path = self._object(key) / LOG
        return path if path.is_file() else None

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
        the files but is no part of the content. If somebody else was first, theirs stays and is
        returned; an object made from other parents than the store holds now, or a damaged one, is
        set aside and replaced. Raises DiskFull or StoreError, leaving no part of an object;
        ValueError where `folder` or what describes the object cannot be stored.
        """
        made = self._current(key)
        if made is None:
            files = disk.outputs(folder)
            log = log or files.get(LOG)
            files.pop(LOG, None)
            if MANIFEST in files:
                raise ValueError(
                    f"{files[MANIFEST]}: the name is the store's own. Give the file another"
                )
            lineage = {
                role: Parent(key=parent, digest=digest)
                for role, (parent, digest) in parents.items()
            }
            about = {"spec": spec, "code": code, "parents": lineage, "record": record}
            dump(
                key, files={}, **about
            )  # what cannot be described is refused before anything is copied
            with disk.writing(self.root), self._workspace(key) as work:
                made = self._publish(fill(work, files, log, key, about), work)
        self.clear_failure(key)
        return made

    @contextmanager
    def _workspace(self, key: str) -> Iterator[Path]:
        work = self.root / "tmp" / disk.owned(key)
        work.mkdir(parents=True)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)  # gone already if it became the object

    def _publish(self, manifest: Manifest, work: Path) -> Manifest:
        target = self._object(manifest.key)
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
            else:
                disk.sync(target.parent)
                return manifest
        raise StoreError(f"{target}: is damaged and cannot be moved away. Remove it by hand")

    def _current(self, key: str) -> Manifest | None:
        """The object if `has`; otherwise what is in its place is set aside."""
        manifest = self.manifest(key)
        if manifest is None:
            return None
        changed = self.outdated(manifest)
        if not changed:
            return manifest
        self.set_aside(
            key, f"it was made from another {', '.join(changed)} than the store holds now"
        )
        return None

    def set_aside(self, key: str, reason: str) -> None:
        """Move an object out of the way, to `tmp/damaged.*`, and say so. One that is not there is
        left at that.
        """
        aside = self.root / "tmp" / f"damaged.{key[:16]}.{secrets.token_hex(4)}"
        try:
            aside.parent.mkdir(exist_ok=True)
            self._object(key).rename(aside)
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

    def tidy(self) -> None:
        """Remove what processes of this machine that are gone left in `tmp/` and `live/`."""
        for path in (self.root / "tmp").glob("*"):
            if disk.abandoned(path.name):
                shutil.rmtree(path, ignore_errors=True)
                with suppress(OSError):
                    path.unlink(missing_ok=True)
        for key, status in self.lives().items():
            if disk.abandoned_status(status):
                self.live(key, None)
