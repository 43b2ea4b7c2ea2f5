"""Damage to files, and things in their places that are no files."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def moved_and_linked(path: Path) -> None:
    path.rename(path.parent.parent / path.name)
    path.symlink_to(path.parent.parent / path.name)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_special(path: Path, what: str) -> None:
    """Put something in the place of a file that is none."""
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            before = Path.cwd()
            os.chdir(path.parent)  # the name of a socket has 107 bytes at most
            try:
                server.bind(path.name)
            finally:
                os.chdir(before)
    else:
        path.symlink_to(what)
