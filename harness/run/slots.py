"""Slots: where stages run side by side. GPUs times jobs on each, or CPU cores divided by threads."""

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
    """The slots of this machine.

    `device`: auto (GPUs if there are any), cpu, cuda (all visible GPUs) or cuda:<i> (one of them,
    counted from 0 as CUDA would). `jobs`: slots a GPU (default 1), or on a CPU slots in all
    (default cores // threads, at least 1). `threads` a slot, default 1. Raises BenchError for a
    device that is not there.
    """
    threads = 1 if threads is None else threads
    for name, value in (("--jobs", jobs), ("--threads", threads)):
        if value is not None and value < 1:
            raise BenchError(f"{name} {value}: a whole number from 1 is wanted")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise BenchError(f"--device {device}: unknown. Known: auto, cpu, cuda, cuda:<number>")
    found = [] if device == "cpu" else gpus()
    if device == "cpu" or (device == "auto" and not found):
        return _cpu_slots(jobs or max(1, cores() // threads), threads)
    if not found:
        raise BenchError(
            f"--device {device}: no GPU is visible (CUDA_VISIBLE_DEVICES, nvidia-smi -L)"
        )
    numbers: Sequence[int] = range(len(found))
    if ":" in device:
        number = int(device.partition(":")[2])
        if number >= len(found):
            raise BenchError(
                f"--device {device}: {len(found)} GPUs are visible, cuda:0 to cuda:{len(found) - 1}"
            )
        numbers = [number]
    # All slots of the first job come first, so that few stages spread over all GPUs.
    return [
        Slot(
            f"cuda:{number}" + (f".{job}" if jobs and jobs > 1 else ""),
            "cuda",
            threads,
            _env(threads, found[number]),
        )
        for job in range(jobs or 1)
        for number in numbers
    ]


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES would call the visible GPUs. CUDA itself is not asked: it must not
    start here.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        # CUDA ignores everything after the first entry that names no device.
        stop = next(
            (place for place, name in enumerate(names) if name in ("", "-1", "NoDevFiles")),
            len(names),
        )
        return names[:stop]
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


def _uuids(listed: str) -> list[str]:
    """Devices by UUID, since their numbers depend on CUDA_DEVICE_ORDER; a divided GPU stands as its
    instances.
    """
    found: list[str] = []
    whole = ""
    for name, kind in _UUID.findall(listed):
        if kind == "GPU":
            whole = name
        elif whole in found:
            found.remove(whole)
        found.append(name)
    return found


def cores() -> int:
    """CPU cores that this process may use: its affinity, and the quota of its control group."""
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        return max(1, min(count, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return count


def _cpu_slots(count: int, threads: int) -> list[Slot]:
    return [Slot(f"cpu.{number}", "cpu", threads, _env(threads, "")) for number in range(count)]


def _env(threads: int, gpu: str) -> dict[str, str]:
    return {
        "CUDA_VISIBLE_DEVICES": gpu,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)),
    }
