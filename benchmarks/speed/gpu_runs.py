"""The parts of benchmarks/speed/gpu.py that go through the command line, as users do: process
starts are in them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from gpu_bench import Bench, Figure

SMALL = """
seeds = {seeds}
[[dataset]]
name = "npz"
path = "{path}"
[[model]]
name = "small-cnn"
width = 32
[[attack]]
name = "badnets"
[[defense]]
name = "none"
[[metric]]
name = "asr"
[training]
recipe = "cifar-fast"
epochs = {epochs}
"""
SHORTER = """
extends = "{grid}"
[training]
epochs = {epochs}
"""
QUICK_EPOCHS = 3
GOAL = 8 * 60
"""Seconds that the whole grid may take on one H200."""


def small(bench: Bench) -> Iterator[Figure]:
    """Small victims, so many at a time; start-up, poisoning and evaluation included."""
    train = bench.asked.images // 5 * 2
    path = save(bench.folder / "small.npz", train, max(10, train // 10))
    epochs = 1 if bench.asked.quick else 10
    made = 0

    def victims(count: int, jobs: int, environment: Mapping[str, str]) -> float:
        nonlocal made
        seeds = list(range(made, made + count))
        made += count
        file = bench.folder / "small.toml"
        file.write_text(SMALL.format(seeds=seeds, path=path, epochs=epochs))
        return run(bench, file, bench.folder / "victims", jobs, environment)

    victims(1, 1, {})  # makes what all share
    ways = [("", bench.asked.jobs, contextlib.nullcontext({}))]
    if bench.asked.mps:
        ways.append((", MPS", bench.asked.jobs[-2:], mps(bench.folder / "mps")))
    for told, numbers, around in ways:
        with around as environment:
            for jobs in numbers:
                taken = victims(bench.asked.victims, jobs, environment)
                yield Figure(
                    f"small victims, {jobs} at a time{told}",
                    60 * bench.asked.victims / taken,
                    "victims/min",
                )


def grid(bench: Bench) -> Iterator[Figure]:
    """Six attacks, seven defenses: as much of it as the budget allows."""
    data = Path(os.environ.get("BENCH_DATA", bench.folder)) / "cifar10.npz"
    drawn = not data.exists()
    if drawn:
        data = save(
            bench.folder / "cifar10.npz", bench.asked.images, max(10, bench.asked.images // 5)
        )
    file = bench.asked.grid.resolve()
    if bench.asked.quick:
        file = bench.folder / "grid.toml"
        file.write_text(SHORTER.format(grid=bench.asked.grid.resolve(), epochs=QUICK_EPOCHS))
    environment = {"BENCH_DATA": str(data.parent)}
    store = bench.folder / "store"
    command(
        bench, "plan", file, store, environment
    )  # asks plugins what they are, which is remembered
    taken = run(
        bench, file, store, bench.asked.grid_jobs, environment, bench.asked.budget, failures=True
    )
    told = command(bench, "status", file, store, environment).stdout.splitlines()
    done = bool(told) and "to run" not in told[0] and "failed" not in told[0]
    bench.details["grid"] = {"status": told[:20], "records": records(store)}
    note = f"{'drawn images' if drawn else 'CIFAR-10'}, {bench.asked.grid_jobs} stages at a time; {'; '.join(told[:2])}"
    # one that was stopped before the goal's time says nothing about it
    judged = bench.whole and not bench.asked.quick and (taken < bench.asked.budget or taken > GOAL)
    yield Figure(
        "whole grid", taken, "s", f"{GOAL} s", done and taken <= GOAL if judged else None, note
    )
    for kind, (count, middle) in sorted(bench.details["grid"]["records"].items()):
        yield Figure(f"stage {kind}, {count} of them", middle, "s", note="median")


def records(store: Path) -> dict[str, tuple[int, float]]:
    """For each kind of stage how many a store holds, and the median of the seconds that they took."""
    import json

    taken: dict[str, list[float]] = {}
    for path in (store / "objects").glob("*/*/manifest.json"):
        manifest = json.loads(path.read_text())
        taken.setdefault(manifest["spec"]["stage"], []).append(manifest["record"]["seconds"])
    return {kind: (len(values), statistics.median(values)) for kind, values in taken.items()}


def save(path: Path, train: int, test: int) -> Path:
    """An archive of drawn pictures whose brightness tells their class."""
    draw = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", train), ("test", test)):
        labels = draw.permutation(np.arange(count) % 10)
        noise = draw.integers(0, 100, (count, 32, 32, 3))
        arrays[f"{split}_images"] = (noise + 15 * labels[:, None, None, None]).astype(np.uint8)
        arrays[f"{split}_labels"] = labels
    np.savez(path, **arrays)
    return path


def run(
    bench: Bench,
    file: Path,
    store: Path,
    jobs: int,
    environment: Mapping[str, str],
    timeout: float | None = None,
    failures: bool = False,
) -> float:
    """Seconds of `bench run`. Raises RuntimeError where it did not end well; with `failures`, cells
    may fail.
    """
    if bench.cuda:
        torch.cuda.empty_cache()
    began = time.monotonic()
    result = command(bench, "run", file, store, environment, "--jobs", str(jobs), timeout=timeout)
    if result.returncode not in (0, 130, *([1] if failures else [])):
        raise RuntimeError(
            f"bench run ended with {result.returncode}:\n{result.stdout[-2000:]}{result.stderr[-4000:]}"
        )
    return time.monotonic() - began


def command(
    bench: Bench,
    verb: str,
    file: Path,
    store: Path,
    environment: Mapping[str, str],
    *words: str,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """A verb of the command line on a grid; interrupted, as a user would, after `timeout` seconds."""
    line = [sys.executable, "-m", "harness.cli", verb, str(file), "--store", str(store), *words]
    if verb == "run":
        line += ["--device", bench.device.type]
    around = {**os.environ, **environment}
    with subprocess.Popen(
        line, env=around, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, said = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            out, said = process.communicate(timeout=60)
    return subprocess.CompletedProcess(line, process.returncode, out, said)


@contextmanager
def mps(folder: Path) -> Iterator[dict[str, str]]:
    """NVIDIA's multi-process service of our own; the environment with which stages find it."""
    program = shutil.which("nvidia-cuda-mps-control")
    if program is None:
        raise RuntimeError("nvidia-cuda-mps-control is not installed")
    folder.mkdir()
    found = {
        "CUDA_MPS_PIPE_DIRECTORY": str(folder / "pipe"),
        "CUDA_MPS_LOG_DIRECTORY": str(folder / "log"),
    }
    for name in found.values():
        Path(name).mkdir()
    around = {**os.environ, **found}
    subprocess.run([program, "-d"], env=around, check=True, timeout=30)
    try:
        yield found
    finally:
        subprocess.run([program], input="quit\n", env=around, text=True, check=False, timeout=60)
