"""Slots, which stages run in, side by side: GPUs times jobs, or CPU cores divided by threads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import BenchError

_UUID = re.compile(r"\(UUID: ((GPU|MIG)-[^)]+)\)")

MOST = 4096
"""Jobs, and threads of each, at most: more than the cores of any machine."""


@dataclass(frozen=True)
class Slot:
    """A place for one stage at a time.

    `name` for people ("cuda:1", "cpu.0"); `device` as the stage's process knows it; `env` is added
    to its environment.
    """

    name: str
    device: str
    threads: int
    env: Mapping[str, str] = field(default_factory=dict)


def slots(device: str = "auto", jobs: int | None = None, threads: int | None = None) -> list[Slot]:
    """Return the slots of this machine.

    `device`: auto (GPUs if there are any), cpu, cuda (all visible GPUs) or cuda:<i> (one of them,
    counted from 0 as CUDA would). `jobs`: slots a GPU (default 1), or on a CPU slots in all
    (default cores // threads, at least 1). `threads` a slot, default 1. Raises BenchError for a
    device that is not there.
    """
    if threads is None:
        threads = 1
    _check_count("--jobs", jobs)
    _check_count("--threads", threads)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise BenchError(f"--device {device}: unknown. Known: auto, cpu, cuda, cuda:<number>")
    if device == "cpu":
        return _cpu_slots(jobs, threads)
    visible = gpus()
    if device == "auto" and not visible:
        return _cpu_slots(jobs, threads)
    if not visible:
        raise BenchError(
            f"--device {device}: no GPU is visible (CUDA_VISIBLE_DEVICES, nvidia-smi -L)"
        )
    return _gpu_slots(visible, _numbers(device, len(visible)), jobs or 1, threads)


def _check_count(option: str, count: int | None) -> None:
    if count is not None and count < 1:
        raise BenchError(f"{option} {count}: a whole number from 1 is expected")
    if count is not None and count > MOST:
        raise BenchError(f"{option} {count}: at most {MOST:,} are possible")


def _numbers(device: str, count: int) -> Sequence[int]:
    """Return the numbers of the GPUs that `device` means, of `count` visible ones."""
    _, colon, digits = device.partition(":")
    if not colon:
        return range(count)
    number = int(digits)
    if number >= count:
        raise BenchError(f"--device {device}: {count} GPUs are visible, cuda:0 to cuda:{count - 1}")
    return [number]


def _gpu_slots(
    visible: Sequence[str], numbers: Sequence[int], jobs: int, threads: int
) -> list[Slot]:
    made = []
    # All slots of the first job come first, so that few stages spread over all GPUs.
    for job in range(jobs):
        for number in numbers:
            name = f"cuda:{number}"
            if jobs > 1:
                name += f".{job}"
            made.append(Slot(name, "cuda", threads, _env(threads, visible[number])))
    return made


def gpus() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES would call the visible GPUs.

    CUDA itself is not asked: it must not start here.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return _named_gpus(visible)
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return _uuids(listed)


def _named_gpus(visible: str) -> list[str]:
    """Return the devices that a value of CUDA_VISIBLE_DEVICES names."""
    names = []
    for entry in visible.split(","):
        name = entry.strip()
        # CUDA ignores everything after the first entry that names no device.
        if name in ("", "-1", "NoDevFiles"):
            break
        names.append(name)
    return names


def _uuids(listed: str) -> list[str]:
    """Return the devices by UUID, since their numbers depend on CUDA_DEVICE_ORDER.

    A divided GPU stands as its instances.
    """
    devices: list[str] = []
    whole = ""
    for name, kind in _UUID.findall(listed):
        if kind == "GPU":
            whole = name
        elif whole in devices:
            devices.remove(whole)
        devices.append(name)
    return devices


def cores() -> int:
    """Return how many CPU cores this process may use: its affinity, and the quota of its control
    group.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        granted = round(int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or "max" for the quota
        return count
    return max(1, min(count, granted))


def _cpu_slots(jobs: int | None, threads: int) -> list[Slot]:
    count = jobs or max(1, cores() // threads)
    return [Slot(f"cpu.{number}", "cpu", threads, _env(threads, "")) for number in range(count)]


def _env(threads: int, gpu: str) -> dict[str, str]:
    return {
        "CUDA_VISIBLE_DEVICES": gpu,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
