"""Folders of this machine, and what is installed on it, without importing any of it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import site
import sys
from pathlib import Path

RECORDED = (
    "doorbench",
    "numpy",
    "opacus",
    "pluggy",
    "pydantic",
    "safetensors",
    "timm",
    "torch",
    "torchvision",
    "triton",
)
"""Distributions whose versions stand beside every result."""


def cache_folder() -> Path:
    """Where things that can be worked out again are remembered: `$BENCH_CACHE`, else the user's
    cache folder.

    `$XDG_CACHE_HOME/doorbench`, else `~/.cache/doorbench`. The folder need not exist.
    """
    if chosen := os.environ.get("BENCH_CACHE"):
        return Path(chosen).absolute()
    # The specification of XDG says that a relative path is to be ignored.
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(xdg) if Path(xdg).is_absolute() else Path("~/.cache").expanduser()
    return base / "doorbench"


def store_folder(option: Path | str | None = None) -> Path:
    """The store that a command works on: `--store`, else `$BENCH_STORE`, else `./.bench`; absolute."""
    return Path(option or os.environ.get("BENCH_STORE") or ".bench").absolute()


def snapshot() -> dict[str, object]:
    """Python, platform and the versions of `RECORDED`, for manifests. Reads metadata only; takes
    milliseconds.
    """
    packages: dict[str, str] = {}
    for name in RECORDED:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "packages": packages,
    }


def fingerprint() -> str:
    """A digest that moves when Python, the installed packages or any module of the harness changes.

    Cheap rather than complete: installing or removing a package touches the modification time of
    the folder that it lies in. What is remembered from asking plugins is forgotten when this
    changes.
    """
    own = sorted(Path(__file__).parent.rglob("*.py"))
    parts = [
        sys.version,
        sys.executable,
        os.environ.get("PYTHONPATH", ""),
        os.environ.get("BENCH_DATA", ""),
    ]
    parts += [f"{path} {file_state(path)}" for path in (*map(Path, _package_folders()), *own)]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def file_state(path: Path | str) -> list[int] | None:
    """[modification time in ns, size in bytes] of a file or folder, None where there is none."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return [status.st_mtime_ns, status.st_size]


def _package_folders() -> list[str]:
    return [*site.getsitepackages(), site.getusersitepackages()]
