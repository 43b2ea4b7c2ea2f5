"""Zip files that are written anew with something changed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

Entries = dict[zipfile.ZipInfo, bytes]


def rewritten(path: Path, change: Callable[[Entries], object]) -> Path:
    """Write a pack anew, after a change of its entries."""
    with zipfile.ZipFile(path) as archive:
        entries = {info: archive.read(info) for info in archive.infolist()}
    change(entries)
    target = path.with_name("tampered.zip")
    with zipfile.ZipFile(target, "w") as archive:
        for info, data in entries.items():
            archive.writestr(info, data)
    return target
