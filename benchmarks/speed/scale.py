"""The cost of the harness itself as grids and stores grow: seconds and memory of its commands,
beside bare ceilings.

    python benchmarks/speed/scale.py

One grid, of 10 attacks, 10 defenses and more and more seeds. Each size is planned with an empty
store, then the store is filled with objects such as its stages leave (committed by the store
itself, without training and without waiting for the disk), and then come the commands. Each runs in
a process of its own; what counts is the median of the rounds. A command that does not find all
stages finished ends the measurement. The ceilings are what the same machine takes, within one
process, for hashing the settings behind all keys, for opening, reading and hashing all manifests
and asking for the sizes of all files, and for listing the store.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import records
from scale_store import GRID, LEFT, PER_SEED, fill, planned
from tabulate import tabulate

from harness import keys
from harness.outcomes import Outcome
from harness.stages.stage import Stage
from harness.store.manifest import MANIFEST
from harness.store.objects import Store

OTHER = "benchmarks/quickstart.toml"
"""A grid that the store has nothing of."""

Goal = tuple[str, int, float]
"""A command, from how many cells or objects on it is meant, and the seconds that it may take."""

CELLS: tuple[Goal, ...] = (("plan, empty store", 10_000, 2.0), ("run, all finished", 10_000, 5.0))
OBJECTS: tuple[Goal, ...] = (
    ("status of the store", 100_000, 5.0),
    ("status of the grid", 100_000, 5.0),
)
MEGABYTES = 300


@dataclass(frozen=True)
class Point:
    """A command at one size: seconds on the clock and of processor time, peak memory of its
    process, and the ceiling in seconds of processor time.
    """

    command: str
    cells: int
    objects: int
    seconds: float
    cpu_seconds: float
    megabytes: float
    ceiling: float | None


# --- commands and ceilings ------------------------------------------------------------------------

WATCHED = """
import sys
from harness.cli import main
code = main(sys.argv[2:])
with open("/proc/self/status") as status, open(sys.argv[1], "w") as memory:
    memory.writelines(line.split()[1] for line in status if line.startswith("VmHWM"))
sys.exit(code)
"""
"""A command that says what its memory came to, apart from that of any process that started it or
that it started.
"""


@dataclass(frozen=True)
class Taken:
    """The cost of one command."""

    seconds: float
    cpu_seconds: float
    megabytes: float


def bench(*words: str, saying: str = "") -> Taken:
    """Run a command. Raises SystemExit where it does not end well, or where its first lines lack
    the text `saying`: then it did something else than what is measured.
    """
    with tempfile.NamedTemporaryFile("r") as memory, tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", WATCHED, memory.name, *words],
            cwd=records.ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        beginning = output.read(2000)
        if process.returncode or saying not in beginning:
            raise SystemExit(
                f"bench {' '.join(words)} ended with {process.returncode}, "
                f"and should say {saying!r}:\n{beginning}"
            )
        return Taken(seconds, used.ru_utime + used.ru_stime, int(memory.read()) / 1024)


def processor(work: Callable[[], object], rounds: int = 3) -> float:
    """Return the seconds of processor time that `work` takes, the least of the rounds."""
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)


def hash_bare(texts: list[bytes]) -> None:
    """Do the least that finding the keys of all stages takes."""
    for text in texts:
        hashlib.sha256(text).hexdigest()


def read_bare(root: Path, stages: Mapping[str, Stage]) -> None:
    """Do the least that looking at finished stages takes."""
    for key, stage in stages.items():
        folder = f"{root}/objects/{key[:2]}/{key}"
        handle = os.open(f"{folder}/{MANIFEST}", os.O_RDONLY)
        hashlib.sha256(os.read(handle, 1 << 16)).digest()
        os.close(handle)
        for file in LEFT[stage.kind]:
            os.stat(f"{folder}/{file}")  # noqa: PTH116 - bare


def list_bare(root: Path) -> None:
    """Do the least that looking at a store takes."""
    for shard in os.listdir(f"{root}/objects"):  # noqa: PTH208 - bare
        os.listdir(f"{root}/objects/{shard}")  # noqa: PTH208


# --- measuring ------------------------------------------------------------------------------------


class Size:
    """A grid of so many seeds, whose objects are in the store of `folder`, and its points."""

    def __init__(self, folder: Path, seeds: int, rounds: int) -> None:
        self.file = folder / "grid.toml"
        self.file.write_text(GRID.format(seeds=list(range(seeds))))
        self.store = Store(folder / "store")
        self.rounds = rounds
        self.points: list[Point] = []
        self.plan = planned(self.file)
        self.cells = len(self.plan.cells)

    def fill(self) -> None:
        """Fill the store. Raises SystemExit where a stage counts as unfinished even so."""
        fill(self.plan.graph.stages, self.store)
        self.plan.refresh(self.store)
        for key, outcome in self.plan.outcome.items():
            if outcome is not Outcome.CACHED:
                kind = self.plan.stages[key].kind
                raise SystemExit(f"the store was filled, but a {kind} is {outcome.value}")

    def note(self, command: str, ceiling: float | None, *words: str, saying: str = "") -> None:
        """Measure a command, which should say something."""
        rounds = [bench(*words, saying=saying) for _ in range(self.rounds)]
        point = Point(
            command,
            self.cells,
            objects=len(list(self.store.keys())),
            seconds=statistics.median(taken.seconds for taken in rounds),
            cpu_seconds=statistics.median(taken.cpu_seconds for taken in rounds),
            megabytes=statistics.median(taken.megabytes for taken in rounds),
            ceiling=ceiling,
        )
        self.points.append(point)


def measure(folder: Path, seeds: int, rounds: int) -> list[Point]:
    """Measure all commands with a grid of so many seeds; its objects stay in the store of
    `folder`.
    """
    size = Size(folder, seeds, rounds)
    file = str(size.file)
    root = size.store.root
    stages = size.plan.graph.stages
    texts = [keys.canonical(stage.spec) for stage in stages.values()]
    hashing = processor(lambda: hash_bare(texts))
    empty = ("--store", f"{folder}/empty")
    for any_grid in (file, OTHER):
        bench("plan", any_grid, *empty)  # asks the plugins, which is done once
    none_done = f"{size.cells} cells: {size.cells} to run"
    size.note("plan, empty store", hashing, "plan", file, *empty, saying=none_done)
    size.fill()
    finished = hashing + processor(lambda: read_bare(root, stages))
    listing = processor(lambda: list_bare(root))
    there = ("--store", str(root))
    complete = f"{size.cells} cells: {size.cells} complete"
    nothing_to_run = f"{size.cells} cells, 0 to run"
    done = f"{size.cells} cells: {size.cells} done"
    size.note("plan, all finished", finished, "plan", file, *there, saying=complete)
    size.note("run, all finished", finished, "run", file, *there, saying=nothing_to_run)
    size.note("report", finished, "report", file, *there)
    size.note("report --costs", finished, "report", "--costs", file, *there)
    size.note("status of the grid", finished, "status", file, *there, saying=done)
    size.note("status of the store", None, "status", *there)
    size.note("plan of another grid", listing, "plan", OTHER, *there)
    return size.points


def verdicts(points: list[Point]) -> list[str]:
    """Say how each goal fared, in a line of its own."""
    lines = []
    for goals, counted in ((CELLS, "cells"), (OBJECTS, "objects")):
        for goal in goals:
            lines += verdict(goal, counted, points)
    small = [point for point in points if point.cells <= CELLS[0][1]]
    if small:
        largest = max(small, key=lambda point: point.megabytes)
        verb = "reached" if largest.megabytes < MEGABYTES else "NOT reached"
        lines.append(
            f"most memory, up to 10,000 cells: {largest.megabytes:.0f} MB ({largest.command}); "
            f"goal {MEGABYTES} MB {verb}"
        )
    return lines


def verdict(goal: Goal, counted: str, points: list[Point]) -> list[str]:
    """Return the line for a goal, where a size that it is about was measured."""
    command, size, limit = goal
    for point in points:
        count = getattr(point, counted)
        if point.command == command and count >= size:
            verb = "reached" if point.seconds < limit else "NOT reached"
            return [
                f"{command}, {count:,} {counted}: {point.seconds:.1f} s; goal {limit:g} s {verb}"
            ]
    return []


def table(points: list[Point]) -> str:
    """Lay out the points for the terminal."""
    head = ["", "cells", "objects", "seconds", "CPU seconds", "ceiling", "MB"]
    body = []
    for point in sorted(points, key=lambda point: point.command):
        body.append(
            [
                point.command,
                f"{point.cells:,}",
                f"{point.objects:,}",
                f"{point.seconds:.2f}",
                f"{point.cpu_seconds:.2f}",
                "-" if point.ceiling is None else f"{point.ceiling:.3f}",
                f"{point.megabytes:.0f}",
            ]
        )
    sides = ("left", "right", "right", "right", "right", "right", "right")
    return tabulate(body, head, "simple", disable_numparse=True, colalign=sides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="times that each command runs (default: 3)")
    sizes = [100, 1000, 10_000, 33_000]
    add("--cells", type=int, nargs="+", default=sizes, help="sizes of the grid")
    options = parser.parse_args()
    os.fsync = lambda handle: None  # filling a store that nobody keeps need not wait for the disk
    points: list[Point] = []
    with tempfile.TemporaryDirectory() as name:
        os.environ["BENCH_CACHE"] = f"{name}/cache"
        for cells in sorted(options.cells):
            # A grid beyond any goal only shows where the curves go.
            rounds = options.rounds if cells <= CELLS[0][1] else 1
            points += measure(Path(name), max(1, cells // PER_SEED), rounds)
    print(table(points))
    print("\n".join(verdicts(points)))
    records.write(scale=[asdict(point) for point in points])


if __name__ == "__main__":
    main()
