"""What the harness makes of a machine, beside the usual way and beside what the machine could do.

    make speed

Prints a table and writes it to results/speed/<machine>.json. Every ratio is the median over rounds
in which both ways run in turn within one process, so that a machine that others use slows both
alike; `low` and `high` are the least and the largest. One CPU thread, as stages have, and for small
nets all cores besides, as a toolbox has them; not the kept memory that stages have too
(`harness.run.forkserver`): a process has one such setting, and the usual way goes without. Rates of
the machine are those of matrix products and 3x3 convolutions alone, forward and backward;
operations are counted. What only moves bytes is held against a bare copy or conversion of as many.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import grids
import numpy as np
import records
import torch
import usual
from figures import Figure, best, compared, noted, table, timed
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from harness import Task
from harness.learn.augmentation import Resident
from harness.learn.device import probe_precision
from harness.learn.evaluation import predict
from harness.learn.images import ImageSet
from harness.learn.poisoning import stamp
from harness.learn.recipes import Recipe
from harness.learn.training import fit
from harness.run.children import PRELOAD, Children
from plugins.attacks.badnets import BadNets
from plugins.models.resnet18 import ResNet18
from plugins.models.small_cnn import SmallCNN

TASK = Task("noise", 10, 32, 32, 3, 1)
RECIPE = Recipe(epochs=1, batch=128, lr=0.01, crop=4, flip=True)
EPOCHS = 100
"""As many as toolboxes train for, evaluating after each."""
TIMES = 4
"""Epochs of a run of ours whose mean is taken: what a run begins with is paid once."""
CORES = os.cpu_count() or 1
TRAINED, CLEAN, TRIGGERED = 50_000, 10_000, 9_000
"""Images of an epoch, and of an evaluation in toolboxes, which leave the target class out of the
triggered ones.
"""


def generator(name: str) -> torch.Generator:
    """The streams that `fit` asks for."""
    return torch.Generator().manual_seed(len(name))


def ceilings() -> dict[str, float]:
    """Billions of floating-point operations a second, one thread: what products and convolutions
    alone reach.
    """
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        left, right = (torch.randn(1024, 1024, dtype=dtype) for _ in range(2))
        found[f"matmul {name}"] = 2 * 1024**3 / best(lambda a=left, b=right: a @ b) / 1e9  # type: ignore[misc]
        images = torch.randn(32, 128, 16, 16, dtype=dtype).contiguous(
            memory_format=torch.channels_last
        )
        weight = torch.randn(128, 128, 3, 3, dtype=dtype).contiguous(
            memory_format=torch.channels_last
        )
        images.requires_grad_(), weight.requires_grad_()

        def both(x: torch.Tensor = images, w: torch.Tensor = weight) -> None:
            y = nn.functional.conv2d(x, w, padding=1)
            torch.autograd.grad(y, (x, w), y.detach())

        found[f"conv {name}"] = 3 * 2 * 32 * 16 * 16 * 128 * 128 * 9 / best(both) / 1e9
    return found


def figures(rounds: int, folder: Path, peak: dict[str, float]) -> Iterator[Figure]:
    """All of them, quick ones first."""
    drawn = np.random.default_rng(0)
    count = 2000
    images, labels = (
        drawn.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
        drawn.integers(0, 10, count),
    )
    mine = ImageSet(torch.from_numpy(images), torch.from_numpy(labels))
    chosen = drawn.permutation(count)[: count // 10]
    (folder / "png").mkdir()
    files = usual.poison(images, chosen, folder / "png")
    theirs = usual.Pictures(images, labels, files)

    resident, moves = Resident(mine.images, RECIPE), torch.Generator().manual_seed(0)

    def cut() -> None:
        for places in torch.randperm(count, generator=moves).split(128):
            resident.take(places, resident.draw(len(places), moves))

    def load() -> None:
        for _ in usual.batches(theirs):
            pass

    data = compared("data path, 1,000 images", "ms", 1e3 * 1000 / count, cut, load, rounds, 35)
    yield noted(
        data,
        f"{best(lambda: mine.images.float()) * 1e6 / count / data.ours:.0%} of the rate of uint8 to float alone",
    )
    yield Figure("the same, alone", "ms", data.ours, None, None, None, None, "5 ms", data.ours <= 5)

    trigger = BadNets().trigger(TASK)

    def stamped() -> None:
        poisoned = mine.images.clone()
        poisoned[chosen] = stamp(trigger, mine.images[chosen])

    poisoned = compared(
        f"poisoned set, {len(chosen)} of {count}", "ms", 1e3, stamped,
        lambda: usual.poison(images, chosen, folder / "png"), rounds, 10,
    )  # fmt: skip
    yield noted(
        poisoned, f"{best(mine.images.clone) * 1e3 / poisoned.ours:.0%} of the rate of a copy alone"
    )

    for width in (16, 32):
        for threads in (1, CORES):
            torch.set_num_threads(threads)
            yield from epochs(
                width,
                threads,
                mine,
                theirs,
                folder / f"test{width}x{threads}",
                max(3, rounds // 2),
                peak,
            )
    torch.set_num_threads(1)
    fast, plain, two = ResNet18().build(TASK), ResNet18().build(TASK), RECIPE.replace(steps=2)
    step = compared(
        "training step, ResNet-18, batch 128", "s", 0.5, lambda: fit(fast, mine, two, generator=generator),
        lambda: usual.train(plain, theirs, 2), max(3, rounds // 3), 2.3,
    )  # fmt: skip
    yield noted(step, share(ResNet18().build(TASK), 128 / step.ours, peak))
    yield stage(folder)
    for clean in (500, 2500):
        # The stage `evaluate` triggers images of the target class, too, which metrics leave out.
        ours_seen, theirs_seen = EPOCHS * clean + 2 * CLEAN, EPOCHS * (clean + CLEAN + TRIGGERED)
        ratio = theirs_seen / ours_seen
        yield Figure(
            f"images, 100 epochs of fine-tuning on {clean}", "images", ours_seen, theirs_seen, ratio, None, None, "8 x",
            ratio >= 8, "counted, not timed: no evaluation in between",
        )  # fmt: skip


def epochs(
    width: int,
    threads: int,
    mine: ImageSet,
    theirs: usual.Pictures,
    folder: Path,
    rounds: int,
    peak: dict[str, float],
) -> Iterator[Figure]:
    """A small net's epoch of 15 batches without and with what is evaluated meanwhile, on so many
    threads of both sides.

    Each way has networks of its own, since ours moves them to another memory layout.
    """
    seen = 15 * 128
    tested, stamped = seen * CLEAN // TRAINED, seen * TRIGGERED // TRAINED
    folder.mkdir()
    images, labels = mine.images.numpy(), theirs.labels
    clean = usual.Pictures(images[:tested], np.array(labels), {}, False)
    files = usual.poison(images, np.arange(stamped), folder)
    triggered = usual.Pictures(images[:stamped], np.array(labels), files, False)
    fast = SmallCNN(width=width, mean=usual.MEAN, std=usual.STD).build(TASK)
    plain = SmallCNN(width=width).build(TASK)  # its pictures are normalised before
    recipe = RECIPE.replace(steps=15 * TIMES)

    def run() -> None:
        fit(fast, mine, recipe, generator=generator)

    def run_and_test() -> None:
        run()
        predict(fast, mine.images[: max(1, 2 * tested * TIMES // EPOCHS)])

    def epoch_and_test() -> None:
        usual.train(plain, theirs, 15)
        usual.evaluate(plain, clean, triggered)

    name = f"small-cnn width {width}, {seen:,} images, {threads} thread{'s' * (threads > 1)}"
    trained = compared(
        f"training alone, {name}",
        "s",
        1,
        run,
        lambda: usual.train(plain, theirs, 15),
        rounds,
        4,
        TIMES,
    )
    rate = share(fast, seen / trained.ours, peak) if threads == 1 else ""
    yield noted(trained, rate)
    epoch = compared(f"an epoch, {name}", "s", 1, run_and_test, epoch_and_test, rounds, 4, TIMES)
    yield noted(
        epoch,
        f"{tested + stamped:,} images tested after each; ours {2 * tested:,} once in {EPOCHS} epochs",
    )


def share(model: nn.Module, images_a_second: float, peak: dict[str, float]) -> str:
    """What training at this rate comes to, beside the ceiling."""
    with FlopCounterMode(display=False) as counter:
        model.train()(torch.rand(8, 3, 32, 32)).sum().backward()
    rate = images_a_second * counter.get_total_flops() / 8 / 1e9
    kind = probe_precision("auto", "cpu")
    return f"{rate:.0f} GFLOP/s, {rate / peak[f'conv {kind}']:.0%} of what {kind} convolutions reach alone"


def stage(folder: Path, times: int = 20) -> Figure:
    """A fresh child process with torch, from asking for it to its record; copying and committing
    files not included.
    """
    base = folder / "nursery"
    base.mkdir()
    children = Children(base, entry="noop:main", preload=PRELOAD)
    try:
        taken = []
        for number in range(times + 1):
            scratch = base / str(number)
            (scratch / "inputs").mkdir(parents=True)
            (scratch / "out").mkdir()
            task = {"kind": "noop", "payload": {}, "scratch": str(scratch)}
            taken.append(timed(lambda task=task, scratch=scratch: children.run(task, scratch)))  # type: ignore[misc]
    finally:
        children.stop()
    middle = statistics.median(taken[1:]) * 1e3  # the first waits for the import of torch
    return Figure(
        "a fresh child with a first optimiser step",
        "ms",
        middle,
        None,
        None,
        None,
        None,
        "60 ms",
        middle < 60,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="pairs of measurements (default: 9)")
    parser.add_argument("--quick", action="store_true", help="leave out whole grids")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    peak = ceilings()
    with tempfile.TemporaryDirectory() as name:
        found = list(figures(asked.rounds, Path(name), peak))
        if not asked.quick:
            found += grids.whole(Path(name))
    print(table(found))
    print(
        "One thread reaches, in GFLOP/s: "
        + ", ".join(f"{kind} {rate:.0f}" for kind, rate in peak.items())
    )
    records.write(ceilings_gflops=peak, figures=[asdict(figure) for figure in found])


if __name__ == "__main__":
    main()
