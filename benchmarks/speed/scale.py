"""How the harness itself keeps up as grids and stores grow: seconds and memory of its commands,
beside bare ceilings.

    python benchmarks/speed/scale.py

One grid, of 10 attacks, 10 defenses and more and more seeds. Each size is planned with an empty
store, then the store is filled with objects such as its stages leave (committed by the store
itself, without training and without waiting for the disk), and then come the commands. Each runs in
a process of its own; what counts is the median of the rounds. The ceilings are what the same
machine takes, within one process, for hashing the settings behind all keys, for opening, reading
and hashing all manifests and asking for the sizes of all files, and for listing the store.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import records
from tabulate import tabulate

from harness import environment, grid, keys
from harness.plan import plan
from harness.plan.plan import Plan
from harness.registry.discovery import discover
from harness.registry.memo import Memo
from harness.registry.resolve import Resolver
from harness.stages import Stage
from harness.store.objects import Store

OTHER = "benchmarks/quickstart.toml"
"""A grid that the store has nothing of."""

PER_SEED = 100
"""Cells."""

GRID = """
seeds = {seeds}
[[dataset]]
name = "signs"
pool = 200
[[model]]
name = "small-cnn"
[[attack]]
name = "badnets"
sweep.poison_rate = [0.02, 0.05, 0.1]
[[attack]]
name = "blend"
sweep.alpha = [0.1, 0.2]
[[attack]]
name = "sig"
sweep.delta = [20.0, 40.0]
[[attack]]
name = "wanet"
[[attack]]
name = "iab"
[[attack]]
name = "trojan-wm"
[[defense]]
name = "none"
[[defense]]
name = "ft"
sweep.lr = [0.01, 0.02, 0.05]
[[defense]]
name = "fine-pruning"
[[defense]]
name = "nad"
[[defense]]
name = "anp"
[[defense]]
name = "i-bau"
[[defense]]
name = "abl"
[[defense]]
name = "bcu"
[training]
recipe = "signs"
[[metric]]
name = "acc"
[[metric]]
name = "asr"
"""

LEFT = {
    "data": ("train.safetensors", "test.safetensors", "pool.safetensors", "validation.safetensors"),
    "poison": ("poisoned.safetensors", "trigger.safetensors", "truth.json"),
    "victim": ("model.safetensors", "trigger.safetensors", "truth.json"),
    "export": ("training.safetensors", "poisoned.safetensors"),
    "grant": ("images.safetensors",),
    "part": ("model.safetensors", "result.json"),
    "defend": ("model.safetensors", "result.json"),
    "evaluate": ("predictions.safetensors",),
    "score": ("rows.json",),
}
"""Files that a stage of each kind leaves."""

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


def planned(path: Path) -> Plan:
    """The plan of a grid."""
    memo = Memo()
    registry = discover(memo)
    resolver = Resolver(registry, memo=memo)
    read = grid.read(path)
    return plan.build(read, read.cells, registry, resolver, resolver.sources)


def fill(stages: Mapping[str, Stage], store: Store) -> None:
    """An object for each stage that has none: small files, but a record as a real stage has it."""
    made = {**environment.snapshot(), "device": "cpu", "threads": 1, "cpu_capability": "AVX512"}
    held = store.held(stages)
    with tempfile.TemporaryDirectory() as name:
        for number, (key, stage) in enumerate(stages.items()):
            if key in held:
                continue
            folder = Path(name) / key
            folder.mkdir()
            for file in LEFT[stage.kind]:
                (folder / file).write_text(content(file, number))
            record = {
                "seconds": 0.3 + number / 1e6, "cpu_seconds": 0.3, "peak_memory": 430_000_000 + number,
                "images": 1000, "precision": "bf16", "device": "cpu", "threads": 1, "host": "here",
                "finished": "2026-11-28T12:00:00+00:00", "environment": made, "message": "", "type": "",
            }  # fmt: skip
            parents = {item.role: (item.key, digest(store, item.key)) for item in stage.inputs}
            store.commit(
                key, folder, spec=stage.spec, code=stage.code, parents=parents, record=record
            )
            shutil.rmtree(folder)


def content(file: str, number: int) -> str:
    """What is read again is as it should be; the rest merely differs from object to object."""
    if file == "rows.json":
        return json.dumps({"acc": {"": number % 100 + 0.25}, "asr": {"": 7 * number % 100 + 0.5}})
    if file == "result.json":
        return json.dumps(
            {
                "flagged": None,
                "score": None,
                "targets": [],
                "suspects": [],
                "record": {"images": 1000},
            }
        )
    return f"{file} {number}"


def digest(store: Store, key: str) -> str:
    """The content of an object that is there."""
    manifest = store.manifest(key)
    assert manifest is not None
    return manifest.digest


WATCHED = """
import sys
from harness.cli import main
code = main(sys.argv[2:])
with open("/proc/self/status") as status, open(sys.argv[1], "w") as told:
    told.writelines(line.split()[1] for line in status if line.startswith("VmHWM"))
sys.exit(code)
"""
"""A command that says what its memory came to, apart from that of any process that started it or
that it started.
"""


def bench(*words: str) -> tuple[float, float, float]:
    """Seconds, seconds of processor time, peak megabytes of a command that ends well."""
    with tempfile.NamedTemporaryFile("r") as told:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", WATCHED, told.name, *words], cwd=records.ROOT,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
        taken = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"bench {' '.join(words)} ended with {process.returncode}")
        return taken, used.ru_utime + used.ru_stime, int(told.read()) / 1024


def processor(work: Callable[[], object], rounds: int = 3) -> float:
    """Seconds of processor time, the least of the rounds."""
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)


def read_bare(root: Path, stages: Mapping[str, Stage]) -> None:
    """The least that looking at finished stages takes."""
    for key, stage in stages.items():
        folder = f"{root}/objects/{key[:2]}/{key}"
        handle = os.open(f"{folder}/manifest.json", os.O_RDONLY)
        hashlib.sha256(os.read(handle, 1 << 16)).digest()
        os.close(handle)
        for file in LEFT[stage.kind]:
            os.stat(f"{folder}/{file}")  # noqa: PTH116 - bare


def list_bare(root: Path) -> None:
    """The least that looking at a store takes."""
    for shard in os.listdir(f"{root}/objects"):  # noqa: PTH208 - bare
        os.listdir(f"{root}/objects/{shard}")  # noqa: PTH208


def measure(folder: Path, seeds: int, rounds: int) -> list[Point]:
    """All commands with a grid of so many seeds; leaves its objects in the store of `folder`."""
    file, store = folder / "grid.toml", Store(folder / "store")
    file.write_text(GRID.format(seeds=list(range(seeds))))
    made = planned(file)
    stages = made.graph.stages
    texts = [keys.canonical(stage.spec) for stage in stages.values()]
    hashing = processor(lambda: [hashlib.sha256(text).hexdigest() for text in texts])
    empty = f"{folder}/empty"
    found = []

    def note(command: str, ceiling: float | None, *words: str) -> None:
        taken = zip(*(bench(*words) for _ in range(rounds)), strict=True)
        middle = [statistics.median(column) for column in taken]
        objects = len(list(store.keys()))
        found.append(Point(command, len(made.cells), objects, *middle, ceiling))

    for any_grid in (str(file), OTHER):
        bench("plan", any_grid, "--store", empty)  # asks the plugins, which is done once
    note("plan, empty store", hashing, "plan", str(file), "--store", empty)
    fill(stages, store)
    reading, listing = (
        processor(lambda: read_bare(store.root, stages)),
        processor(lambda: list_bare(store.root)),
    )
    there = ("--store", str(store.root))
    note("plan, all finished", hashing + reading, "plan", str(file), *there)
    note("run, all finished", hashing + reading, "run", str(file), *there)
    note("report", hashing + reading, "report", str(file), *there)
    note("report --costs", hashing + reading, "report", "--costs", str(file), *there)
    note("status of the grid", hashing + reading, "status", str(file), *there)
    note("status of the store", None, "status", *there)
    note("plan of another grid", listing, "plan", OTHER, *there)
    return found


def verdicts(found: list[Point]) -> list[str]:
    """What the goals say, a line each."""
    lines = []
    for goals, what in ((CELLS, "cells"), (OBJECTS, "objects")):
        for command, size, limit in goals:
            at = [
                point
                for point in found
                if point.command == command and getattr(point, what) >= size
            ]
            if at:
                said = "reached" if at[0].seconds < limit else "NOT reached"
                lines.append(
                    f"{command}, {getattr(at[0], what):,} {what}: {at[0].seconds:.1f} s; goal {limit:g} s {said}"
                )
    largest = max(
        (point for point in found if point.cells <= CELLS[0][1]), key=lambda point: point.megabytes
    )
    said = "reached" if largest.megabytes < MEGABYTES else "NOT reached"
    lines.append(
        f"most memory, up to 10,000 cells: {largest.megabytes:.0f} MB ({largest.command}); goal 300 MB {said}"
    )
    return lines


def table(found: list[Point]) -> str:
    """For the terminal."""
    head = ["", "cells", "objects", "seconds", "CPU seconds", "ceiling", "MB"]
    body = [
        [one.command, f"{one.cells:,}", f"{one.objects:,}", f"{one.seconds:.2f}", f"{one.cpu_seconds:.2f}",
         "-" if one.ceiling is None else f"{one.ceiling:.3f}", f"{one.megabytes:.0f}"]
        for one in sorted(found, key=lambda one: one.command)
    ]  # fmt: skip
    return tabulate(body, head, "simple", disable_numparse=True, colalign=("left", *("right",) * 6))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--rounds", type=int, default=3, help="times that each command runs (default: 3)"
    )
    parser.add_argument(
        "--cells",
        type=int,
        nargs="+",
        default=[100, 1000, 10_000, 33_000],
        help="sizes of the grid",
    )
    asked = parser.parse_args()
    os.fsync = lambda handle: None  # filling a store that nobody keeps need not wait for the disk
    found: list[Point] = []
    with tempfile.TemporaryDirectory() as name:
        os.environ["BENCH_CACHE"] = f"{name}/cache"
        for cells in sorted(asked.cells):
            # A grid beyond any goal only shows where the curves go.
            rounds = asked.rounds if cells <= CELLS[0][1] else 1
            found += measure(Path(name), max(1, cells // PER_SEED), rounds)
    print(table(found))
    print("\n".join(verdicts(found)))
    records.write(scale=[asdict(point) for point in found])


if __name__ == "__main__":
    main()
