"""Whole grids through the command line, and what two processes can do on this machine without a
harness.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import records
from figures import Figure, timed

ROUNDS = 3
"""Pairs of runs with one worker and with two, and of bare trainings alone and beside another."""


def bench(*words: str, cache: Path) -> float:
    """Seconds that a command takes, with a memo of its own."""
    environment = {**os.environ, "BENCH_CACHE": str(cache)}
    command = [sys.executable, "-m", "harness.cli", *words]

    def run() -> None:
        subprocess.run(
            command,
            check=True,
            env=environment,
            cwd=records.ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    return timed(run)


def together(count: int) -> float:
    """Mean seconds of so many bare trainings that begin at once, each in a process and on a thread
    of its own.
    """
    command = [sys.executable, str(Path(__file__).with_name("bare.py"))]
    processes = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=records.ROOT
        )
        for _ in range(count)
    ]
    answers = [process.stdout for process in processes if process.stdout]
    for answer in answers:
        answer.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    taken = [float(answer.readline()) for answer in answers]
    for process in processes:
        process.communicate()
    return statistics.mean(taken)


def whole(folder: Path) -> Iterator[Figure]:
    """Grids through the command line."""
    taken = bench(
        "run", "benchmarks/quickstart.toml", "--store", str(folder / "quick"), cache=folder / "cold"
    )
    yield Figure(
        "quickstart, 4 x 5, nothing cached", "s", taken, None, None, None, None, "25 s", taken < 25
    )
    grid = "benchmarks/speed/equal.toml"
    bench("plan", grid, "--store", str(folder / "plan"), cache=folder / "cold")

    def victims(jobs: int, turn: int) -> float:
        return bench(
            "run",
            grid,
            "--jobs",
            str(jobs),
            "--store",
            str(folder / f"jobs{jobs}-{turn}"),
            cache=folder / "cold",
        )

    pairs = [(victims(1, turn), victims(2, turn)) for turn in range(ROUNDS)]
    alone, both = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = [one / two for one, two in pairs]
    ratio = statistics.median(ratios)
    bare = statistics.median(2 * together(1) / together(2) for _ in range(ROUNDS))
    yield Figure(
        "24 victims, two workers against one", "s", both, alone, ratio, min(ratios), max(ratios), "1.9 x",
        ratio >= 1.9, f"two bare processes do {bare:.2f} times the work of one",
    )  # fmt: skip
