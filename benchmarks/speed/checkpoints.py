"""The cost of checkpoints: processor seconds of a training that is kept now and then, against those
of the same training of which nothing is kept.

    BENCH_DATA=/data python benchmarks/speed/checkpoints.py     # /data/cifar10.npz

Prints two things. *One checkpoint*: the processor seconds that a step takes at which the state is
kept and written, and those of other steps, within one training. *Whole runs*: those of `bench run`
with all its processes, for each interval in turn, so that a machine that others use slows all
alike; what counts is the median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from harness import Recipe, Task
from harness.keeping.continuing import Continuing
from harness.keeping.loops import Kept, KeptLoop
from harness.learn import ImageSet
from harness.learn.training import fit
from plugins.models.resnet20 import ResNet20

GRID = """
seeds = [0]
[[dataset]]
name = "npz"
path = "{path}"
take = {images}
take_test = 200
[[model]]
name = "resnet20"
[[attack]]
name = "none"
[[defense]]
name = "none"
[training]
recipe = "cifar-fast"
epochs = {epochs}
batch = {batch}
[[metric]]
name = "acc"
"""
BATCH = 128


class Timed(KeptLoop):
    """Notes the processor seconds of each boundary in `spent`."""

    spent: list[float]

    def boundary(self, done: int, place: str, state: Callable[[], Any]) -> None:
        """See `Loop`."""
        began = time.process_time()
        super().boundary(done, place, state)
        self.spent.append(time.process_time() - began)


class Every(Continuing):
    """Writes a checkpoint at every tenth boundary."""

    boundaries = 0

    def due(self) -> bool:
        """Tell whether a checkpoint is to be written now."""
        self.boundaries += 1
        return self.boundaries % 10 == 0


def one_checkpoint(steps: int) -> tuple[list[float], list[float], float, int]:
    """Train; return the processor seconds of boundaries that write, of the others, those of a whole
    step without either, and the bytes kept.
    """
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (2000, 32, 32, 3), dtype=torch.uint8, generator=generator)
    data = ImageSet(pictures, torch.arange(2000) % 10)
    network = ResNet20().build(Task("noise", 10, 32, 32, 3, 2000))
    with tempfile.TemporaryDirectory() as folder:
        stage = Every(Path(folder), 1.0, lambda: {"environment": {}, "opened": []})
        loop = Timed(stage, "fit", Kept({}, dict, lambda state: None), None, tracked=True)
        loop.spent = []
        (Path(folder) / "checkpoint").mkdir()
        recipe = Recipe(steps=steps, batch=BATCH, lr=0.05, crop=4, flip=True, precision="fp32")
        began = time.process_time()
        fit(network, data, recipe, generator=lambda name: generator, loop=loop)
        total = time.process_time() - began
        entries = list((Path(folder) / "checkpoint").glob("*/*"))
        newest = max((path.parent for path in entries), key=lambda path: path.stat().st_mtime)
        size = sum(path.stat().st_size for path in newest.iterdir())
    writing = loop.spent[9::10]
    other = [seconds for place, seconds in enumerate(loop.spent) if place % 10 != 9]
    return writing, other, (total - sum(loop.spent)) / steps, size


def run(folder: Path, interval: float) -> tuple[float, float, float]:
    """Run the grid from nothing; return processor seconds of all its processes, those of its
    longest stage, the victim's, and the seconds of that stage on the clock.
    """
    store = folder / "store"
    words = ["run", folder / "grid.toml", "--store", store, "--jobs", "1", "--threads", "1"]
    words += ["--device", "cpu", "--checkpoint", f"{interval:g}"]
    before = _spent()
    subprocess.run(
        [sys.executable, "-m", "harness.cli", *map(str, words)], check=True, capture_output=True
    )
    total = _spent() - before
    records = []
    for path in sorted(store.glob("objects/*/*/manifest.json")):
        records.append(_record(path))
    seconds, processor = max(records)
    shutil.rmtree(store)
    return total, processor, seconds


def _record(path: Path) -> tuple[float, float]:
    record = json.loads(path.read_text())["record"]
    return record.get("seconds", 0.0), record.get("cpu_seconds", 0.0)


def _spent() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def whole_runs(options: argparse.Namespace, folder: Path) -> None:
    """Print a line for each run, and the ratios to the runs without checkpoints beside them."""
    path = Path(os.environ["BENCH_DATA"]) / "cifar10.npz"
    text = GRID.format(path=path, images=options.images, epochs=options.epochs, batch=BATCH)
    (folder / "grid.toml").write_text(text)
    found: dict[float, list[tuple[float, float, float]]] = {}
    for number in range(options.rounds):
        turn = number % len(options.intervals)
        for interval in options.intervals[turn:] + options.intervals[:turn]:
            spent = run(folder, interval)
            found.setdefault(interval, []).append(spent)
            total, processor, seconds = spent
            print(
                f"round {number + 1}, every {interval:g} s: {total:.2f} s of all processes, "
                f"{processor:.2f} s of the victim's, {seconds:.1f} s on the clock",
                flush=True,
            )
    for interval in options.intervals:
        for place, name in enumerate(("all processes", "the victim's")):
            print(f"every {interval:g} s, {name}: {_ratios(found[interval], found[0.0], place)}")


def _ratios(
    kept: Sequence[tuple[float, ...]], plain: Sequence[tuple[float, ...]], place: int
) -> str:
    ratios = sorted(one[place] / other[place] for one, other in zip(kept, plain, strict=True))
    return f"{statistics.median(ratios):.4f} ({ratios[0]:.4f} to {ratios[-1]:.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="runs at each interval (default: 5)")
    add("--images", type=int, default=4000, help="training images (default: 4000)")
    add("--epochs", type=int, default=5, help="passes over them (default: 5)")
    add("--steps", type=int, default=100, help="steps of the training that is looked into")
    add("--intervals", type=float, nargs="+", default=[0.0, 300.0, 5.0], help="seconds; 0 first")
    options = parser.parse_args()
    torch.set_num_threads(1)
    writing, other, step, size = one_checkpoint(options.steps)
    print(
        f"one checkpoint of {size:,} bytes: {1000 * statistics.median(writing):.1f} ms "
        f"({1000 * min(writing):.1f} to {1000 * max(writing):.1f}); other boundaries "
        f"{1e6 * statistics.mean(other):.0f} us; a step {1000 * step:.0f} ms",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        whole_runs(options, Path(folder))


if __name__ == "__main__":
    main()
