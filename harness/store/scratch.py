"""Folders for work in progress, outside the store: `<temporary
folder>/doorbench-<uid>-<pid>-<random>/`, one for each run and for each child that a command starts
beside runs.

A command holds a lock on its folder's owner file, which the kernel drops however the command ends:
so a later one knows what is left over from a dead one, and removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_OWNER = "owner"
_UNCLAIMED = 3600.0
"""Seconds after which a folder that nobody has locked yet counts as left over."""


class Scratch:
    """The scratch folders of one run; `close` removes them."""

    def __init__(self) -> None:
        """Make the run's folder, and remove those of runs that are dead."""
        sweep()
        parent = _parent()
        # Locked under another name first, so that nobody ever sees it under its own without a lock.
        unclaimed = Path(tempfile.mkdtemp(prefix=f".doorbench-{os.getuid()}-", dir=parent))
        self._owner = os.open(unclaimed / _OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        random = unclaimed.name.rpartition("-")[2]
        self.base = parent / f"doorbench-{os.getuid()}-{os.getpid()}-{random}"
        unclaimed.rename(self.base)

    @contextlib.contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """Make an empty folder, and remove it with all its content at the end."""
        path = Path(tempfile.mkdtemp(prefix=f"{name[:16]}-", dir=self.base))
        try:
            yield path
        finally:
            remove(path)

    def close(self) -> None:
        """Remove everything. Called once, when nothing runs any more."""
        remove(self.base)
        os.close(self._owner)


@contextlib.contextmanager
def short_lived(name: str) -> Iterator[Path]:
    """Make an empty folder for one piece of work of a command, and remove it at the end; where the
    command is killed before, the next that makes one removes it.
    """
    scratch = Scratch()
    try:
        with scratch.folder(name) as folder:
            yield folder
    finally:
        scratch.close()


def sweep() -> None:
    """Remove this user's scratch folders whose run is dead."""
    for path in _parent().glob(f"doorbench-{os.getuid()}-*"):
        if _is_ours(path) and _is_dead(path):
            remove(path)
    for path in _parent().glob(f".doorbench-{os.getuid()}-*"):
        with contextlib.suppress(OSError):
            age = time.time() - path.stat().st_mtime
            if _is_ours(path) and age > _UNCLAIMED:
                remove(path)


def remove(path: Path) -> None:
    """Delete a folder, whatever rights a stage has set in it, and although a dying process may
    still write to it.
    """
    for pause in (0.0, 0.05, 0.2, 0.5):
        time.sleep(pause)
        with contextlib.suppress(RecursionError):  # folders in folders, a thousand levels deep
            shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        with contextlib.suppress(OSError):
            _flatten(path)


def _flatten(path: Path) -> None:
    """Empty the folders in a folder, however deep they are and whatever rights they have: those in
    them are moved up to it, where paths stay short.
    """
    path.chmod(0o700)
    moved = 0
    while True:
        folders = [entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink()]
        if not folders:
            return
        for folder in folders:
            folder.chmod(0o700)
            for entry in list(folder.iterdir()):
                if entry.is_dir() and not entry.is_symlink():
                    entry.chmod(0o700)
                    moved += 1
                    entry.rename(path / f"{os.getpid()}-{moved}-{time.monotonic_ns()}")
                else:
                    entry.unlink()
            folder.rmdir()


def _parent() -> Path:
    return Path(tempfile.gettempdir()).resolve()


def _is_ours(path: Path) -> bool:
    try:
        return not path.is_symlink() and path.lstat().st_uid == os.getuid()
    except OSError:
        return False


def _is_dead(path: Path) -> bool:
    """Tell whether nobody holds the lock on a run's folder any more."""
    try:
        owner = os.open(path / _OWNER, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True  # its removal was interrupted
    except OSError:
        return False
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(owner)
    return True
