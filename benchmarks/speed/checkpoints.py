"""The cost of checkpoints: processor seconds of a training of which something is kept now and then,
beside those of the same training of which nothing is kept.

    python benchmarks/speed/checkpoints.py

Prints two things. *One checkpoint*: the processor seconds of a step at which the state is kept and
written, and of other steps, within one training. *Side by side*: a training for each interval, all
within one process, which take turns at every step, so that whatever else the machine does slows all
alike. What counts are the processor seconds of each, over the whole and by parts of a hundred
steps. With them comes what the run's own process does, which checks and copies what was written.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from harness import Recipe, Task
from harness.keeping.continuing import CHECKPOINTS, Continuing
from harness.keeping.loops import Kept, KeptLoop
from harness.learn import ImageSet
from harness.learn.training import fit
from harness.store.checkpoints import Checkpoints
from plugins.models.resnet20 import ResNet20

BATCH = 128
PART = 100
"""Steps whose processor seconds are compared."""


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
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CHECKPOINTS).mkdir()
        stage = Every(Path(folder), 1.0, _about)
        loop = Timed(stage, "fit", Kept({}, dict, lambda state: None), None, tracked=True)
        loop.spent = []
        began = time.process_time()
        train(loop, steps)
        total = time.process_time() - began
        newest = max(_written(Path(folder)), key=lambda path: int(path.name))
        size = sum(path.stat().st_size for path in newest.iterdir())
    writing = loop.spent[9::10]
    other = [seconds for place, seconds in enumerate(loop.spent) if place % 10 != 9]
    return writing, other, (total - sum(loop.spent)) / steps, size


class Turns:
    """Lets threads run one at a time, in a fixed order."""

    def __init__(self, count: int) -> None:
        self._changed = threading.Condition()
        self._waiting = list(range(count))

    def take(self, number: int) -> None:
        """Wait until it is a thread's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting[0] == number)

    def give(self, *, for_good: bool = False) -> None:
        """Let the next one run; a thread that has ended does so for good."""
        with self._changed:
            number = self._waiting.pop(0)
            if not for_good:
                self._waiting.append(number)
            self._changed.notify_all()


class Beside(KeptLoop):
    """Has what was written copied into a store, as a run does, and gives the turn away at every
    boundary. `spent`: processor seconds of the thread at each; `kept`: checkpoints so far.
    """

    turns: Turns
    number: int
    scratch: Path
    checkpoints: Checkpoints
    spent: list[float]
    kept: int

    def boundary(self, done: int, place: str, state: Callable[[], Any]) -> None:
        """See `Loop`."""
        super().boundary(done, place, state)
        for folder in _written(self.scratch):
            if int(folder.name) > self.kept:
                self.kept += 1
                files = {path.name: path for path in folder.iterdir()}
                record = {"place": place}
                self.checkpoints.keep("0" * 64, files, spec={}, code={}, parents={}, record=record)
        self.spent.append(time.thread_time())
        self.turns.give()
        self.turns.take(self.number)


def side_by_side(intervals: Sequence[float], steps: int, folder: Path) -> list[Beside]:
    """Train once for each interval, all taking turns."""
    turns = Turns(len(intervals))
    loops = []
    threads = []
    for number, interval in enumerate(intervals):
        scratch = folder / str(number)
        (scratch / "store" / "tmp").mkdir(parents=True)
        (scratch / CHECKPOINTS).mkdir()
        stage = Continuing(scratch, interval, _about)
        loop = Beside(stage, "fit", Kept({}, dict, lambda state: None), None, tracked=True)
        loop.turns, loop.number, loop.scratch = turns, number, scratch
        loop.checkpoints = Checkpoints(scratch / "store")
        loop.spent, loop.kept = [], 0
        loops.append(loop)
        threads.append(threading.Thread(target=_in_turn, args=(loop, steps)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return loops


def _in_turn(loop: Beside, steps: int) -> None:
    torch.set_num_threads(1)
    loop.turns.take(loop.number)
    try:
        train(loop, steps)
    finally:
        loop.turns.give(for_good=True)


def train(loop: KeptLoop, steps: int) -> None:
    """Train a ResNet-20 on noise of the size of CIFAR-10."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (2000, 32, 32, 3), dtype=torch.uint8, generator=generator)
    data = ImageSet(pictures, torch.arange(2000) % 10)
    network = ResNet20().build(Task("noise", 10, 32, 32, 3, 2000))
    recipe = Recipe(steps=steps, batch=BATCH, lr=0.05, crop=4, flip=True, precision="fp32")
    fit(network, data, recipe, generator=lambda name: generator, loop=loop)


def _about() -> dict[str, Any]:
    return {"environment": {}, "opened": []}


def _written(scratch: Path) -> list[Path]:
    return [path for path in (scratch / CHECKPOINTS).iterdir() if path.name.isdecimal()]


def _ratios(kept: Sequence[float], plain: Sequence[float]) -> str:
    """Describe the processor seconds of a training by those of the plain one."""
    ratios = []
    for first in range(0, len(plain) - PART, PART):
        last = first + PART
        ratios.append((kept[last] - kept[first]) / (plain[last] - plain[first]))
    whole = (kept[-1] - kept[0]) / (plain[-1] - plain[0])
    return (
        f"{whole:.4f}; by parts of {PART} steps {statistics.median(ratios):.4f} "
        f"({min(ratios):.4f} to {max(ratios):.4f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--steps", type=int, default=1200, help="of each training side by side (default: 1200)")
    add("--look", type=int, default=100, help="steps of the training that is looked into")
    add("--intervals", type=float, nargs="+", default=[0.0, 300.0, 10.0], help="seconds; 0 first")
    options = parser.parse_args()
    torch.set_num_threads(1)
    writing, other, step, size = one_checkpoint(options.look)
    print(
        f"one checkpoint of {size:,} bytes: {1000 * statistics.median(writing):.1f} ms "
        f"({1000 * min(writing):.1f} to {1000 * max(writing):.1f}); other boundaries "
        f"{1e6 * statistics.mean(other):.0f} us; a step {1000 * step:.0f} ms",
        flush=True,
    )
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        loops = side_by_side(options.intervals, options.steps, Path(folder))
    passed = time.monotonic() - began
    for interval, loop in zip(options.intervals, loops, strict=True):
        print(
            f"every {interval:g} s: {loop.spent[-1] - loop.spent[0]:.2f} processor seconds within "
            f"{passed:.0f} s on the clock, {loop.kept} checkpoints; "
            f"of the plain one {_ratios(loop.spent, loops[0].spent)}"
        )


if __name__ == "__main__":
    main()
