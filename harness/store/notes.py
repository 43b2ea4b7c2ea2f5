"""The store's notes beside its objects: who works on which key, and what failed. Losing them costs
time, never a result.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.store import disk, plain
from harness.store.manifest import LOG

_LOG = 1 << 24
"""Bytes of a failed stage's log that are kept, its end."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class Notes:
    """`locks/`, `failures/` and `live/` of the store in folder `root`."""

    def __init__(self, root: Path) -> None:
        """Take the absolute path of the store's folder."""
        self.root = root

    @contextmanager
    def lock(self, key: str) -> Iterator[bool]:
        """Yield True if this key is ours to work on, and False, at once, if somebody else holds it.

        The lock goes when its holder dies. Where the file system has no locks the answer is True:
        then work may be done twice, and is never wrong.
        """
        path = self.root / "locks" / disk.checked(key)
        lock = FileLock(path, thread_local=False)
        with disk.writing(self.root):
            path.parent.mkdir(exist_ok=True)
            try:
                lock.acquire(blocking=False)
                ours = True
            except Timeout:
                ours = False
            except NotImplementedError:
                ours = True
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                ours = True
        try:
            yield ours
        finally:
            lock.release()

    def fail(self, key: str, record: Mapping[str, Any], log: Path | None = None) -> None:
        """Note that making an object failed, with the end of its log. Replaces an earlier note."""
        folder = self._failure_folder(key)
        work = self.root / "tmp"
        data = json.dumps(dict(record), indent=1, sort_keys=True, default=str).encode()
        with disk.writing(self.root):
            self.clear_failure(key)
            folder.mkdir(parents=True, exist_ok=True)
            if log is not None:
                with suppress(plain.NotPlain, FileNotFoundError):
                    disk.replace(folder / LOG, plain.tail(log, _LOG), work)
            disk.replace(folder / "record.json", data, work)

    def failure(self, key: str) -> dict[str, Any] | None:
        """Return the note of `fail`, with `log` naming the log's copy if there is one; None without
        a failure.
        """
        folder = self._failure_folder(key)
        record = disk.read_table(folder / "record.json")
        if record is not None and (folder / LOG).is_file():
            record["log"] = str(folder / LOG)
        return record

    def failed(self) -> set[str]:
        """Return the keys that `failure` may have a note of."""
        names = disk.names(f"{self.root}/failures")
        return {name for name in names if disk.KEY.fullmatch(name)}

    def clear_failure(self, key: str) -> None:
        """Forget that making an object failed."""
        shutil.rmtree(self._failure_folder(key), ignore_errors=True)

    def _failure_folder(self, key: str) -> Path:
        return self.root / "failures" / disk.checked(key)

    def live(self, key: str, status: Mapping[str, Any] | None) -> None:
        """Note for other terminals how far the work on a key is, or with None that it has ended.

        Trouble with the disk is ignored.
        """
        path = self.root / "live" / f"{disk.checked(key)}.json"
        with suppress(OSError):
            if status is None:
                path.unlink(missing_ok=True)
            else:
                data = json.dumps(dict(status), default=str).encode()
                disk.replace(path, data, self.root / "tmp")

    def lives(self) -> dict[str, dict[str, Any]]:
        """Return the status of what is being worked on, by key."""
        statuses = {}
        for path in sorted((self.root / "live").glob("*.json")):
            status = disk.read_table(path)
            if status is not None:
                statuses[path.stem] = status
        return statuses
