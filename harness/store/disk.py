"""The store's ways of touching the disk: copies that are hashed on the way, durable writes, names
that tell their owner.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.store import plain

KEY = re.compile(r"[0-9a-f]{64}")

DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.EBADMSG, errno.EUCLEAN}
"""Errors of reading a file that mean that the file is not as it was. Others (no permission, too
many open files) tell nothing about it.
"""

LARGEST = 1 << 30
"""Bytes of a file at most that is read at once."""

DEEPEST = 16
"""Levels of folders that a stage may leave."""
LONGEST = 1000
"""Characters of the name of a file that a stage leaves, folders included."""
MOST = 10_000
"""Files that a stage may leave."""

_CHUNK = 1 << 20
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
    """Yield the bytes that a plain file has now, at most 1 MiB at a time.

    Raises Unreadable for `DAMAGE`, for what is no plain file and for one that changes its size
    meanwhile, else OSError.
    """
    try:
        with os.fdopen(plain.opened(path), "rb", buffering=0) as stream:
            left = os.fstat(stream.fileno()).st_size
            while chunk := stream.read(_CHUNK):
                left -= len(chunk)
                if left < 0:  # somebody goes on writing, perhaps for ever
                    raise Unreadable(f"{path}: grows while it is read")
                yield chunk
    except plain.NotPlain as error:
        raise Unreadable(str(error)) from error
    except OSError as error:
        if error.errno not in DAMAGE:
            raise
        raise Unreadable(f"{path}: {error.strerror}") from error


def contents(path: str) -> bytes:
    """Return all bytes of a plain file, in half the time that a file object takes.

    Raises OSError, which names the file; ValueError for what is no plain file.
    """
    try:
        return plain.content(path, LARGEST)
    except OSError as error:
        error.filename = path
        raise


def read(path: str) -> bytes:
    """Return what `contents` does; raise Unreadable for `DAMAGE` and for what is no plain file,
    else OSError.
    """
    try:
        return contents(path)
    except ValueError as error:
        raise Unreadable(str(error)) from error
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


def checksum(path: Path) -> str:
    """Return the SHA-256 of a plain file. Raises what `chunks` raises."""
    checksum = hashlib.sha256()
    for chunk in chunks(path):
        checksum.update(chunk)
    return checksum.hexdigest()


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
    """Return the JSON object in a plain file, or None if there is no such file or no object in
    it.
    """
    try:
        return plain.table(plain.content(path))
    except (OSError, ValueError):
        return None


def outputs(folder: Path) -> dict[str, Path]:
    """Return the plain files below a folder by relative name, with / between folders, sorted.

    Raises ValueError for a folder that is not there; for links, sockets and the like, which are
    never followed, not even in the place of the folder itself; and for what cannot be read or
    named.
    """
    if folder.is_symlink():
        raise ValueError(f"{folder}: is a link, where a folder is expected")
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder, so there is nothing to store")
    files: dict[str, Path] = {}
    level = [folder]
    for _ in range(DEEPEST):
        below = []
        for place in level:
            below += _look_into(place, folder, files)
        level = below
    if level:
        raise ValueError(f"{folder}: holds folders in folders, more than {DEEPEST} levels deep")
    return dict(sorted(files.items()))


def _look_into(place: Path, folder: Path, files: dict[str, Path]) -> list[Path]:
    """Add the files of one folder below `folder` to `files`, and return the folders in it."""
    folders = []
    try:
        with os.scandir(place) as entries:
            found = list(itertools.islice(entries, MOST + 1))
        for entry in found:
            path = place / entry.name
            name = path.relative_to(folder).as_posix()
            _check_file_name(name)
            is_folder = entry.is_dir(follow_symlinks=False)
            if not (is_folder or entry.is_file(follow_symlinks=False)):
                raise ValueError(f"{path}: only plain files and folders can be stored")
            if not os.access(path, os.R_OK):
                raise ValueError(f"{path}: cannot be read. What a stage leaves must be readable")
            if is_folder:
                folders.append(path)
            else:
                files[name] = path
    except OSError as error:
        raise ValueError(f"{place}: cannot be read: {error.strerror}") from error
    if len(files) + len(folders) > MOST:
        raise ValueError(f"{folder}: holds more than {MOST:,} files")
    return folders


def _check_file_name(name: str) -> None:
    """Raise ValueError for the name of a file that no manifest takes."""
    if len(name) > LONGEST:
        raise ValueError(f"a file's name has {len(name)} characters: at most {LONGEST} are taken")
    plain.check_name(name.rpartition("/")[2])


def inside(name: str) -> bool:
    """Tell whether the name of a file in a manifest leads to a place inside the object."""
    parts = name.split("/")
    return "\0" not in name and not {"", ".", ".."} & set(parts)


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
