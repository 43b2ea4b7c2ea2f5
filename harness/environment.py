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
    """Return the folder for things that can be worked out again: `$BENCH_CACHE`, else the user's
    cache folder.

    That is `$XDG_CACHE_HOME/doorbench`, else `~/.cache/doorbench`. The folder need not exist.
    """
    chosen = os.environ.get("BENCH_CACHE")
    if chosen:
        return Path(chosen).absolute()
    user_cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The specification of XDG says that a relative path must be ignored.
    if not user_cache.is_absolute():
        user_cache = Path("~/.cache").expanduser()
    return user_cache / "doorbench"


def store_folder(option: Path | str | None = None) -> Path:
    """Return the store that a command works on, as an absolute path: `--store`, else
    `$BENCH_STORE`, else `./.bench`.
    """
    chosen = option or os.environ.get("BENCH_STORE") or ".bench"
    return Path(chosen).absolute()


def snapshot() -> dict[str, object]:
    """Return Python, platform and the versions of `RECORDED`, for manifests.

    Reads metadata only, which takes milliseconds.
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
    """Return a digest that moves when Python, the installed packages or any module of the harness
    changes.

    Cheap rather than complete: installing or removing a package touches the modification time of
    the folder that it lies in. What is remembered from asking plugins is forgotten when this
    changes.
    """
    lines = [
        sys.version,
        sys.executable,
        os.environ.get("PYTHONPATH", ""),
        os.environ.get("BENCH_DATA", ""),
    ]
    package_folders = [Path(folder) for folder in _package_folders()]
    own_modules = sorted(Path(__file__).parent.rglob("*.py"))
    lines += [f"{path} {file_state(path)}" for path in package_folders + own_modules]
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:32]


def file_state(path: Path | str) -> list[int] | None:
    """Return what shows that a file or folder may have changed, None where there is none:
    [modification time in ns, size in bytes, change time in ns, inode].

    A copy can be given any modification time. It cannot be given a change time, which the system
    sets at every change of content or name.
    """
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return [status.st_mtime_ns, status.st_size, status.st_ctime_ns, status.st_ino]


def _package_folders() -> list[str]:
    return [*site.getsitepackages(), site.getusersitepackages()]
