"""How the store touches the disk: copies that are hashed on the way, durable writes, names that
tell their owner.
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
"""What reading a file can end in because the file is not as it was. Others (no permission, too many
open files) tell nothing about it.
"""

_CHUNK = 1 << 20
_PIECE = 1 << 16
_FULL = {errno.ENOSPC, errno.EDQUOT}


class DiskFull(StoreError):
    """No room left on the store's file system, or its quota is used up."""


class Unreadable(ValueError):
    """A file is gone, or altered, or the disk cannot read it any more."""


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Turn what the operating system says about writing below `root` into DiskFull or StoreError."""
    try:
        yield
    except OSError as error:
        where = f"{root}: " if error.filename is None else f"{error.filename}: "
        if error.errno in _FULL:
            raise DiskFull(
                f"{where}the disk is full. Free some space or name another folder with --store"
            ) from error
        raise StoreError(
            f"{where}{error.strerror or error}. The store must be a folder that can be written"
        ) from error


def chunks(path: Path) -> Iterator[bytes]:
    """The file's bytes, at most 1 MiB at a time. Raises Unreadable for `DAMAGE`, else OSError."""
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except OSError as error:
        if error.errno not in DAMAGE:
            raise
        raise Unreadable(f"{path}: {error.strerror}") from error


def contents(path: str) -> bytes:
    """All bytes of a file, in half the time that a file object takes. Raises OSError, which names
    the file.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            return b"".join(iter(functools.partial(os.read, handle, _PIECE), b""))
        finally:
            os.close(handle)
    except OSError as error:
        error.filename = path
        raise


def read(path: str) -> bytes:
    """The same; raises Unreadable for `DAMAGE`, else OSError."""
    try:
        return contents(path)
    except OSError as error:
        if error.errno not in DAMAGE:
            raise
        raise Unreadable(f"{path}: {error.strerror}") from error


def names(folder: str) -> set[str]:
    """What lies in a folder; nothing if it is not there, or no folder."""
    try:
        return set(os.listdir(folder))  # noqa: PTH208 - of a hundred thousand names no paths are wanted
    except (FileNotFoundError, NotADirectoryError):
        return set()


def copy(source: Path, target: Path, *, durable: bool = False) -> tuple[int, str]:
    """Copy a file; size in bytes and SHA-256 of what was copied. `durable`: on the disk before this
    returns.

    Raises Unreadable for the source and OSError for the target.
    """
    size, checksum = 0, hashlib.sha256()
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
    """Make the names in a folder durable; without effect on file systems that cannot do it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def replace(path: Path, data: bytes, work: Path) -> None:
    """Put `data` at `path` in one step; `work` is a folder on the same file system for what is not
    finished.
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
    """A JSON object from a file; None where there is none, or something else."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def outputs(folder: Path) -> dict[str, Path]:
    """The regular files below a folder by their relative name, with / between folders, sorted.

    Raises ValueError for a folder that is not there and for links, sockets and the like, which are
    never followed.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder, so there is nothing to store")
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path}: only plain files and folders can be stored")
        if not os.access(path, os.R_OK):
            raise ValueError(f"{path}: cannot be read. What a stage leaves must be readable")
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path
    return found


def checked(key: str) -> str:
    """`key` itself; raises ValueError where it is none, so that no path leaves the store."""
    if not KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no key: a key is 64 hex digits")
    return key


# --- names in tmp/ that tell who made them --------------------------------------------------------


@functools.cache
def host() -> str:
    """The machine's name and process-id namespace: containers may share the first and count
    processes on their own.
    """
    try:
        namespace = "".join(filter(str.isdigit, str(Path("/proc/self/ns/pid").readlink())))
    except OSError:
        namespace = "0"
    return f"{socket.gethostname()}-{namespace}".replace("/", "-")


def owned(label: str) -> str:
    """A name nobody else uses: `<first 16 of label>.<host>.<pid>.<random>`."""
    return f"{label[:16].replace('.', '-')}.{host()}.{os.getpid()}.{secrets.token_hex(4)}"


def abandoned(name: str) -> bool:
    """Whether `name` is from `owned`, of this machine, and its process is gone."""
    label, _, rest = name.partition(".")
    owner, *numbers = rest.rsplit(".", 2)
    return bool(label) and owner == host() and len(numbers) == 2 and not alive(numbers[0])


def abandoned_status(status: Mapping[str, Any]) -> bool:
    """The same for a status that names its `host` and `pid`; without them nobody can tell, so no."""
    ours = status.get("host") in (host(), socket.gethostname())
    return ours and "pid" in status and not alive(str(status["pid"]))


def alive(pid: str) -> bool:
    """Whether a process of this number runs here."""
    if not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # somebody else's, but there
    return True
