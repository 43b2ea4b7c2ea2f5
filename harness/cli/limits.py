"""Errors that are no bug and no mistake in a grid: the machine has no more of something."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

AT_LIMIT = 71
"""Exit code of a command that the machine does not give what it needs."""

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of writing that mean that no more fits: on the disk, in a quota, in one file."""

_NO_PROCESS = {errno.EAGAIN}
_NO_FILE = {errno.EMFILE, errno.ENFILE}
_BROKEN = {errno.EIO, errno.EROFS}

_NO_THREAD = "can't start new thread"
"""What Python's RuntimeError says, which has no type of its own."""
_NO_FOLDER = "No usable temporary directory"
"""How the FileNotFoundError of `tempfile` begins."""


def told(error: Exception) -> str:
    """Return what an error says of the machine's limits, and what would help; "" for any other."""
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        return f"no more threads can be started. {_PROCESSES}"
    if isinstance(error, OSError):
        return _of_system(error)
    return ""


_PROCESSES = "Raise the limit (`ulimit -u`), or end other processes of yours"


def _of_system(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    if error.errno in NO_ROOM:
        place = place or f"in {tempfile.gettempdir()}, perhaps: "
        return f"{place}{error.strerror}. Free some space, or name another folder with $TMPDIR"
    if error.errno in _NO_PROCESS:
        return f"no more processes can be started. {_PROCESSES}"
    if error.errno in _NO_FILE:
        return f"{place}{error.strerror}. Raise the limit (`ulimit -n`)"
    if error.errno == errno.ENOMEM:
        return "there is not enough memory"
    if error.errno in _BROKEN:
        return f"{place}{error.strerror}"
    if isinstance(error, FileNotFoundError) and not place:
        return _without_folder(error)
    return ""


def _without_folder(error: FileNotFoundError) -> str:
    if str(error.strerror).startswith(_NO_FOLDER):
        return "there is no folder for temporary files. Name one that can be written with $TMPDIR"
    try:
        Path.cwd()
    except FileNotFoundError:
        return "the current folder has been deleted. Change to another one"
    return ""
