"""Which pictures lie in a folder, and what else lies there that nobody would read."""

from __future__ import annotations

import os
from pathlib import Path

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
SYSTEM_FILES = ("desktop.ini", "thumbs.db")
"""What file managers leave behind, and do not show; like names that begin with a dot."""


def suffix(name: str) -> str:
    """Return the end of a file's name in small letters, with its dot."""
    return Path(name).suffix.lower()


def shown(folder: Path) -> list[os.DirEntry[str]]:
    """Return what lies in a folder, sorted by name, without what file managers hide."""
    with os.scandir(folder) as entries:
        seen = []
        for entry in entries:
            if entry.name[0] != "." and entry.name.lower() not in SYSTEM_FILES:
                seen.append(entry)
    return sorted(seen, key=lambda entry: entry.name)


def listed(folder: Path) -> list[Path]:
    """Return the pictures in a folder, sorted by name; hidden files are none."""
    pictures = []
    for path in folder.iterdir():
        hidden = path.name[0] == "."
        if path.suffix.lower() in SUFFIXES and not hidden:
            pictures.append(path)
    return sorted(pictures, key=lambda path: path.name)


def pictures_alone(folder: Path) -> list[Path]:
    """Return the pictures of a class, sorted by name. Raises ValueError for anything else there."""
    pictures = []
    for entry in shown(folder):
        if entry.is_dir():
            raise ValueError(
                f"{entry.path} is a folder within a class and would not be read; move its pictures "
                f"to {folder}, or it elsewhere"
            )
        if suffix(entry.name) not in SUFFIXES:
            known = ", ".join(sorted(SUFFIXES))
            raise ValueError(
                f"{entry.path} is no picture by its name and would not be read; pictures end with "
                f"{known}: convert, rename or remove it"
            )
        if not entry.is_file():
            raise ValueError(f"{entry.path} is no file that can be read; remove it")
        pictures.append(Path(entry.path))
    return pictures


def some_pictures(folder: Path) -> list[Path]:
    """Return what `pictures_alone` returns of a published class.

    Raises ValueError where there is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    pictures = pictures_alone(folder)
    if not pictures:
        raise ValueError(f"{folder} has no pictures")
    return pictures
