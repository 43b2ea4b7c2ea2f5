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
from figures import Figure, alone, timed

ROUNDS = 3
"""Pairs of runs with one worker and with two, and of bare trainings alone and beside another."""
QUICKSTART = "benchmarks/quickstart.toml"
EQUAL = "benchmarks/speed/equal.toml"


def bench(*words: str, cache: Path) -> float:
    """Return the seconds that a command takes, with a memo of its own."""
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
    """Return the mean seconds of so many bare trainings that begin at once, each in a process and
    on a thread of its own.
    """
    command = [sys.executable, str(Path(__file__).with_name("bare.py"))]
    processes = []
    for _ in range(count):
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=records.ROOT
        )
        processes.append(process)
    for process in processes:
        _answer(process)  # it is ready
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    seconds = [float(_answer(process)) for process in processes]
    for process in processes:
        process.communicate()
    return statistics.mean(seconds)


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def whole(folder: Path) -> Iterator[Figure]:
    """Run grids through the command line."""
    memo = folder / "cold"
    taken = bench("run", QUICKSTART, "--store", str(folder / "quick"), cache=memo)
    yield alone("quickstart, 4 x 5, nothing cached", "s", taken, "25 s", taken < 25)
    # Asks the plugins what they are, which is remembered.
    bench("plan", EQUAL, "--store", str(folder / "plan"), cache=memo)

    def victims(jobs: int, turn: int) -> float:
        store = folder / f"jobs{jobs}-{turn}"
        return bench("run", EQUAL, "--jobs", str(jobs), "--store", str(store), cache=memo)

    by_one = []
    by_two = []
    ratios = []
    for turn in range(ROUNDS):
        by_one.append(victims(1, turn))
        by_two.append(victims(2, turn))
        ratios.append(by_one[-1] / by_two[-1])
    ratio = statistics.median(ratios)
    bare = statistics.median(2 * together(1) / together(2) for _ in range(ROUNDS))
    yield Figure(
        "24 victims, two workers against one",
        "s",
        ours=statistics.median(by_two),
        theirs=statistics.median(by_one),
        ratio=ratio,
        low=min(ratios),
        high=max(ratios),
        goal="1.9 x",
        reached=ratio >= 1.9,
        note=f"two bare processes do {bare:.2f} times the work of one",
    )
