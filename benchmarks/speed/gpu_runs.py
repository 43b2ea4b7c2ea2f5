"""The parts of benchmarks/speed/gpu.py that go through the command line, as users do: process
starts are in them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
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
INTERRUPTED = 130
"""Exit code of a command that was stopped."""


def small(bench: Bench) -> Iterator[Figure]:
    """Train small victims, so many at a time; start-up, poisoning and evaluation included."""
    train = bench.options.images // 5 * 2
    path = save(bench.folder / "small.npz", train, max(10, train // 10))
    epochs = 1 if bench.options.quick else 10
    made = 0

    def seconds(count: int, jobs: int, environment: Mapping[str, str]) -> float:
        nonlocal made
        seeds = list(range(made, made + count))
        made += count
        file = bench.folder / "small.toml"
        file.write_text(SMALL.format(seeds=seeds, path=path, epochs=epochs))
        return run(bench, file, bench.folder / "victims", jobs, environment)

    victims = bench.options.victims
    seconds(1, 1, {})  # makes what all share
    for jobs in bench.options.jobs:
        rate = 60 * victims / seconds(victims, jobs, {})
        yield Figure(f"small victims, {jobs} at a time", rate, "victims/min")
    if not bench.options.mps:
        return
    with mps(bench.folder / "mps") as environment:
        for jobs in bench.options.jobs[-2:]:
            rate = 60 * victims / seconds(victims, jobs, environment)
            yield Figure(f"small victims, {jobs} at a time, MPS", rate, "victims/min")


def grid(bench: Bench) -> Iterator[Figure]:
    """Run six attacks, seven defenses: as much of it as the budget allows."""
    options = bench.options
    data = Path(os.environ.get("BENCH_DATA", bench.folder)) / "cifar10.npz"
    source = "CIFAR-10"
    if not data.exists():
        source = "drawn images"
        data = save(bench.folder / "cifar10.npz", options.images, max(10, options.images // 5))
    file = options.grid.resolve()
    if options.quick:
        shorter = SHORTER.format(grid=file, epochs=QUICK_EPOCHS)
        file = bench.folder / "grid.toml"
        file.write_text(shorter)
    environment = {"BENCH_DATA": str(data.parent)}
    store = bench.folder / "store"
    # Asks plugins what they are, which is remembered.
    command(bench, "plan", file, store, environment)
    taken = run(
        bench, file, store, options.grid_jobs, environment, options.budget, allow_failures=True
    )
    status = command(bench, "status", file, store, environment).stdout.splitlines()
    kinds = records(store)
    bench.details["grid"] = {"status": status[:20], "records": kinds}
    # A run that was stopped before the goal's time says nothing about it.
    stopped_early = options.budget <= taken <= GOAL
    reached = None
    if bench.whole and not options.quick and not stopped_early:
        complete = bool(status) and "to run" not in status[0] and "failed" not in status[0]
        reached = complete and taken <= GOAL
    note = f"{source}, {options.grid_jobs} stages at a time; {'; '.join(status[:2])}"
    yield Figure("whole grid", taken, "s", f"{GOAL} s", reached, note)
    for kind, (count, middle) in sorted(kinds.items()):
        yield Figure(f"stage {kind}, {count} of them", middle, "s", note="median")


def records(store: Path) -> dict[str, tuple[int, float]]:
    """Return for each kind of stage how many objects a store holds, and the median of the seconds
    that they took.
    """
    seconds: dict[str, list[float]] = {}
    for path in (store / "objects").glob("*/*/manifest.json"):
        manifest = json.loads(path.read_text())
        kind = manifest["spec"]["stage"]
        seconds.setdefault(kind, []).append(manifest["record"]["seconds"])
    return {kind: (len(values), statistics.median(values)) for kind, values in seconds.items()}


def save(path: Path, train: int, test: int) -> Path:
    """Write an archive of drawn pictures whose brightness tells their class."""
    draw = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", train), ("test", test)):
        labels = draw.permutation(np.arange(count) % 10)
        noise = draw.integers(0, 100, (count, 32, 32, 3))
        images = noise + 15 * labels[:, None, None, None]
        arrays[f"{split}_images"] = images.astype(np.uint8)
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
    allow_failures: bool = False,
) -> float:
    """Return the seconds of `bench run`. Raises RuntimeError where it did not end well; with
    `allow_failures`, cells may fail.
    """
    if bench.cuda:
        torch.cuda.empty_cache()
    good = {0, INTERRUPTED}
    if allow_failures:
        good.add(1)
    began = time.monotonic()
    result = command(bench, "run", file, store, environment, "--jobs", str(jobs), timeout=timeout)
    seconds = time.monotonic() - began
    if result.returncode not in good:
        raise RuntimeError(
            f"bench run ended with {result.returncode}:\n"
            f"{result.stdout[-2000:]}{result.stderr[-4000:]}"
        )
    return seconds


def command(
    bench: Bench,
    verb: str,
    file: Path,
    store: Path,
    environment: Mapping[str, str],
    *words: str,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a verb of the command line on a grid; interrupt it, as a user would, after `timeout`
    seconds.
    """
    line = [sys.executable, "-m", "harness.cli", verb, str(file), "--store", str(store), *words]
    if verb == "run":
        line += ["--device", bench.device.type]
    with subprocess.Popen(
        line,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(line, process.returncode, output, errors)


@contextlib.contextmanager
def mps(folder: Path) -> Iterator[dict[str, str]]:
    """Start NVIDIA's multi-process service of our own; yield the environment with which stages find
    it.
    """
    program = shutil.which("nvidia-cuda-mps-control")
    if program is None:
        raise RuntimeError("nvidia-cuda-mps-control is not installed")
    pipe = folder / "pipe"
    log = folder / "log"
    pipe.mkdir(parents=True)
    log.mkdir()
    variables = {"CUDA_MPS_PIPE_DIRECTORY": str(pipe), "CUDA_MPS_LOG_DIRECTORY": str(log)}
    environment = {**os.environ, **variables}
    subprocess.run([program, "-d"], env=environment, check=True, timeout=30)
    try:
        yield variables
    finally:
        subprocess.run(
            [program], input="quit\n", env=environment, text=True, check=False, timeout=60
        )
