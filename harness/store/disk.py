"""The store's ways of touching the disk: copies that are hashed on the way, durable writes, names
that tell their owner.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import StoreError

KEY = re.compile(r"[0-9a-f]{64}")

DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.EBADMSG, errno.EUCLEAN}
"""Errors of reading a file that mean that the file is not as it was. Others (no permission, too
many open files) tell nothing about it.
"""

_CHUNK = 1 << 20
_PIECE = 1 << 16
_FULL = {errno.ENOSPC, errno.EDQUOT}


class DiskFull(StoreError):
    """Raised where the store's file system is full, or a quota on it is used up."""


class Unreadable(ValueError):
    """Raised for a file that is gone or altered, or that the disk cannot read any more."""


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Turn the operating system's errors of writing below `root` into DiskFull or StoreError."""
    try:
        yield
    except OSError as error:
        place = root if error.filename is None else error.filename
        if error.errno in _FULL:
            raise DiskFull(
                f"{place}: the disk is full. Free some space or name another folder with --store"
            ) from error
        reason = error.strerror or error
        raise StoreError(
            f"{place}: {reason}. The store must be a folder that can be written"
        ) from error


def chunks(path: Path) -> Iterator[bytes]:
    """Yield the file's bytes, at most 1 MiB at a time. Raises Unreadable for `DAMAGE`, else
    OSError.
    """
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except OSError as error:
        if error.errno not in DAMAGE:
            raise
        raise Unreadable(f"{path}: {error.strerror}") from error


def contents(path: str) -> bytes:
    """Return all bytes of a file, in half the time that a file object takes.

    Raises OSError, which names the file.
    """
    pieces = []
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            while piece := os.read(handle, _PIECE):
                pieces.append(piece)
        finally:
            os.close(handle)
    except OSError as error:
        error.filename = path
        raise
    return b"".join(pieces)


def read(path: str) -> bytes:
    """Return what `contents` does; raise Unreadable for `DAMAGE`, else OSError."""
    try:
        return contents(path)
    except OSError as error:
        if error.errno not in DAMAGE:
            raise
        raise Unreadable(f"{path}: {error.strerror}") from error


def names(folder: str) -> set[str]:
    """Return the names in a folder; none if it is not there, or is not a folder."""
    try:
        # Making paths of a hundred thousand names would take several times as long.
        return set(os.listdir(folder))  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return set()


def copy(source: Path, target: Path, *, durable: bool = False) -> tuple[int, str]:
    """Copy a file and return the size in bytes and the SHA-256 of what was copied.

    With `durable`, it is on the disk before this returns. Raises Unreadable for the source and
    OSError for the target.
    """
    size = 0
    checksum = hashlib.sha256()
    with target.open("wb") as stream:
        for chunk in chunks(source):
            size += len(chunk)
            checksum.update(chunk)
            stream.write(chunk)
        if durable:
            stream.flush()
            os.fsync(stream.fileno())
    return size, checksum.hexdigest()


def write(path: Path, data: bytes) -> None:
    """Write a file so that it is on the disk before this returns."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync(folder: Path) -> None:
    """Make the names in a folder durable; does nothing on file systems that cannot do it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def replace(path: Path, data: bytes, work: Path) -> None:
    """Put `data` at `path` in one step; `work` is a folder on the same file system, for the
    unfinished file.
    """
    work.mkdir(exist_ok=True)
    path.parent.mkdir(exist_ok=True)
    unfinished = work / owned(path.name)
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_table(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None if there is no such file or no object in it."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if isinstance(value, dict):
        return value
    return None


def outputs(folder: Path) -> dict[str, Path]:
    """Return the regular files below a folder by relative name, with / between folders, sorted.

    Raises ValueError for a folder that is not there and for links, sockets and the like, which are
    never followed.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder, so there is nothing to store")
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path}: only plain files and folders can be stored")
        if not os.access(path, os.R_OK):
            raise ValueError(f"{path}: cannot be read. What a stage leaves must be readable")
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = path
    return files


def checked(key: str) -> str:
    """Return `key`; raise ValueError where it is no key, so that no path leaves the store."""
    if not KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no key: a key is 64 hex digits")
    return key


# --- names in tmp/ that tell who made them --------------------------------------------------------


@functools.cache
def host() -> str:
    """Return the machine's name and the number of its process-id namespace.

    Containers may share the name and yet count processes on their own.
    """
    try:
        link = str(Path("/proc/self/ns/pid").readlink())  # such as pid:[4026531836]
        namespace = "".join(character for character in link if character.isdigit())
    except OSError:
        namespace = "0"
    return f"{socket.gethostname()}-{namespace}".replace("/", "-")


def owned(label: str) -> str:
    """Return a name that nobody else uses: `<first 16 of label>.<host>.<pid>.<random>`."""
    start = label[:16].replace(".", "-")
    return f"{start}.{host()}.{os.getpid()}.{secrets.token_hex(4)}"


def abandoned(name: str) -> bool:
    """Tell whether `name` is from `owned`, of this machine, and its process is gone."""
    label, _, rest = name.partition(".")
    parts = rest.rsplit(".", 2)  # the host's name may have dots of its own
    if not label or len(parts) != 3:
        return False
    owner, pid, _ = parts
    return owner == host() and not alive(pid)


def abandoned_status(status: Mapping[str, Any]) -> bool:
    """Tell whether the process behind a status is one of this machine and gone.

    A status names its `host` and `pid`; without them nobody can tell, so the answer is no.
    """
    if status.get("host") not in (host(), socket.gethostname()):
        return False
    return "pid" in status and not alive(str(status["pid"]))


def alive(pid: str) -> bool:
    """Tell whether a process of this number runs here."""
    if not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # somebody else's, but there
    return True
