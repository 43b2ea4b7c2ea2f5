"""Folders of this machine, and what is installed on it, without importing any of it."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import site
import sys
from pathlib import Path

from harness.errors import BenchError

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

_PROCESSORS = Path("/proc/cpuinfo")

LITTLE = 1 << 14
"""Bytes; a file system with less room than this is full."""


def cache_folder() -> Path:
    """Return the folder for things that can be worked out again: `$BENCH_CACHE`, else the user's
    cache folder.

    That is `$XDG_CACHE_HOME/doorbench`, else `~/.cache/doorbench`. The folder need not exist.
    Raises BenchError where none of these is known.
    """
    chosen = os.environ.get("BENCH_CACHE")
    if chosen:
        return Path(chosen).absolute()
    user_cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The specification of XDG says that a relative path must be ignored.
    if not user_cache.is_absolute():
        try:
            user_cache = Path("~/.cache").expanduser()
        except RuntimeError:
            raise BenchError(
                f"$HOME is not set, and user {os.getuid()} has no home folder: name a folder for "
                "what can be worked out again with $BENCH_CACHE"
            ) from None
    return user_cache / "doorbench"


def store_folder(option: Path | str | None = None) -> Path:
    """Return the store that a command works on, as an absolute path: `--store`, else
    `$BENCH_STORE`, else `./.bench`.
    """
    chosen = option or os.environ.get("BENCH_STORE") or ".bench"
    return Path(chosen).absolute()


def is_full(folder: Path) -> bool:
    """Tell whether the file system of a folder has no room left, for bytes or for names of files.

    A child that could not write what it had to say leaves this as the only sign.
    """
    status = os.statvfs(folder)
    counts_names = status.f_files > 0
    if counts_names and status.f_favail == 0:
        return True
    return status.f_bavail * status.f_frsize < LITTLE


def snapshot() -> dict[str, object]:
    """Return Python, platform, processor and the versions of `RECORDED`, for manifests.

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
        "processor": processor(),
        "packages": packages,
    }


@functools.cache
def processor() -> str:
    """Return the name of the processor's model, such as `AMD EPYC 7763 64-Core Processor`; "" where
    the system does not tell.
    """
    if platform.system() != "Linux":
        return platform.processor()
    try:
        # The file has a part for each core, and many cores take long: the first part says it.
        with _PROCESSORS.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == "model name":
                    words = value.split()
                    return "".join(filter(str.isprintable, " ".join(words)))
    except OSError:
        pass
    return ""


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
