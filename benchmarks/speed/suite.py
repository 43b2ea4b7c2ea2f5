"""The speed of the harness, beside the usual way and beside what the machine could do.

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
from dataclasses import asdict, dataclass
from pathlib import Path

import grids
import noop
import numpy as np
import records
import torch
import usual
from figures import Figure, alone, best, compared, noted, table, timed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harness import Recipe, Task
from harness.learn import ImageSet, predict, probe_precision, stamp
from harness.learn.augmentation import Resident
from harness.learn.training import fit
from harness.run.children import PRELOAD, Children
from plugins.attacks.badnets import BadNets
from plugins.models.resnet18 import ResNet18
from plugins.models.small_cnn import SmallCNN

TASK = Task("noise", 10, 32, 32, 3, 1)
RECIPE = Recipe(epochs=1, batch=128, lr=0.01, crop=4, flip=True)
COUNT = 2000
"""Pictures that are drawn; a tenth of them is poisoned."""
STEPS = 15
"""Batches in an epoch of a small net."""
EPOCHS = 100
"""As many as toolboxes train for, evaluating after each."""
TIMES = 4
"""Epochs of a run of ours whose mean is taken: what a run begins with is paid once."""
CORES = os.cpu_count() or 1
TRAINED, CLEAN, TRIGGERED = 50_000, 10_000, 9_000
"""Images of an epoch, and of an evaluation in toolboxes, which leave the target class out of the
triggered ones.
"""
Peak = dict[str, float]
"""Billions of floating-point operations a second, by operation and precision."""


def generator(name: str) -> torch.Generator:
    """Return a generator for a stream that `fit` draws from."""
    return torch.Generator().manual_seed(len(name))


def ceilings() -> Peak:
    """Measure what products and convolutions alone reach on one thread."""
    peak = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        peak[f"matmul {name}"] = _product_rate(dtype)
        peak[f"conv {name}"] = _convolution_rate(dtype)
    return peak


def _product_rate(dtype: torch.dtype) -> float:
    left = torch.randn(1024, 1024, dtype=dtype)
    right = torch.randn(1024, 1024, dtype=dtype)
    operations = 2 * 1024**3
    return operations / best(lambda: left @ right) / 1e9


def _convolution_rate(dtype: torch.dtype) -> float:
    images = _channels_last(torch.randn(32, 128, 16, 16, dtype=dtype))
    weight = _channels_last(torch.randn(128, 128, 3, 3, dtype=dtype))

    def both_ways() -> None:
        outputs = nn.functional.conv2d(images, weight, padding=1)
        torch.autograd.grad(outputs, (images, weight), outputs.detach())

    operations = 3 * 2 * 32 * 16 * 16 * 128 * 128 * 9
    return operations / best(both_ways) / 1e9


def _channels_last(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=torch.channels_last).requires_grad_()


@dataclass(frozen=True)
class Material:
    """Pictures as we have them and as toolboxes do, a tenth of them poisoned there."""

    mine: ImageSet
    chosen: np.ndarray
    theirs: usual.Pictures


def draw(folder: Path) -> Material:
    """Draw pictures of noise; the poisoned ones of the usual way are written to `folder`."""
    drawn = np.random.default_rng(0)
    images = drawn.integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)
    labels = drawn.integers(0, 10, COUNT)
    mine = ImageSet(torch.from_numpy(images), torch.from_numpy(labels))
    chosen = drawn.permutation(COUNT)[: COUNT // 10]
    files = usual.poison(images, chosen, folder)
    return Material(mine, chosen, usual.Pictures(images, labels, files))


def figures(rounds: int, folder: Path, peak: Peak) -> Iterator[Figure]:
    """Measure all of them, quick ones first."""
    pictures = folder / "png"
    pictures.mkdir()
    material = draw(pictures)
    yield from data_path(material, rounds)
    yield poisoned_set(material, rounds, pictures)
    for width in (16, 32):
        for threads in (1, CORES):
            torch.set_num_threads(threads)
            tested = folder / f"test{width}x{threads}"
            yield from epochs(width, threads, material, tested, max(3, rounds // 2), peak)
    torch.set_num_threads(1)
    yield training_step(material, max(3, rounds // 3), peak)
    yield stage(folder)
    for clean in (500, 2500):
        yield images_seen(clean)


def data_path(material: Material, rounds: int) -> Iterator[Figure]:
    """Measure an epoch's batches: cut from memory, and loaded."""
    images = material.mine.images
    resident = Resident(images, RECIPE)
    moves = torch.Generator().manual_seed(0)

    def cut() -> None:
        for places in torch.randperm(COUNT, generator=moves).split(128):
            resident.take(places, resident.draw(len(places), moves))

    def load() -> None:
        for _ in usual.batches(material.theirs):
            pass

    figure = compared("data path, 1,000 images", "ms", 1e3 * 1000 / COUNT, cut, load, rounds, 35)
    conversion = best(lambda: images.float()) * 1e6 / COUNT
    yield noted(figure, f"{conversion / figure.ours:.0%} of the rate of uint8 to float alone")
    yield alone("the same, alone", "ms", figure.ours, "5 ms", figure.ours <= 5)


def poisoned_set(material: Material, rounds: int, folder: Path) -> Figure:
    """Measure how a poisoned training set is made: in memory, and as files."""
    images = material.mine.images
    chosen = material.chosen
    trigger = BadNets().trigger(TASK)

    def stamped() -> None:
        poisoned = images.clone()
        poisoned[chosen] = stamp(trigger, images[chosen])

    def written() -> None:
        usual.poison(images.numpy(), chosen, folder)

    name = f"poisoned set, {len(chosen)} of {COUNT}"
    figure = compared(name, "ms", 1e3, stamped, written, rounds, 10)
    copy = best(images.clone) * 1e3
    return noted(figure, f"{copy / figure.ours:.0%} of the rate of a copy alone")


def epochs(
    width: int, threads: int, material: Material, folder: Path, rounds: int, peak: Peak
) -> Iterator[Figure]:
    """Measure a small net's epoch of 15 batches without and with what is evaluated meanwhile, on so
    many threads of both sides.

    Each way has networks of its own, since ours moves them to another memory layout.
    """
    seen = STEPS * 128
    tested = seen * CLEAN // TRAINED
    stamped = seen * TRIGGERED // TRAINED
    mine = material.mine
    theirs = material.theirs
    images = mine.images.numpy()
    labels = np.array(theirs.labels)
    folder.mkdir()
    clean = usual.Pictures(images[:tested], labels, {}, False)
    files = usual.poison(images, np.arange(stamped), folder)
    triggered = usual.Pictures(images[:stamped], labels, files, False)
    fast = SmallCNN(width=width, mean=usual.MEAN, std=usual.STD).build(TASK)
    plain = SmallCNN(width=width).build(TASK)  # its pictures are normalised before
    recipe = RECIPE.replace(steps=STEPS * TIMES)
    # One evaluation at the end, of which TIMES of EPOCHS epochs bear their share.
    our_share = max(1, 2 * tested * TIMES // EPOCHS)

    def run() -> None:
        fit(fast, mine, recipe, generator=generator)

    def run_and_test() -> None:
        run()
        predict(fast, mine.images[:our_share])

    def epoch() -> None:
        usual.train(plain, theirs, STEPS)

    def epoch_and_test() -> None:
        epoch()
        usual.evaluate(plain, clean, triggered)

    plural = "s" if threads > 1 else ""
    name = f"small-cnn width {width}, {seen:,} images, {threads} thread{plural}"
    trained = compared(f"training alone, {name}", "s", 1, run, epoch, rounds, 4, TIMES)
    if threads == 1:
        trained = noted(trained, reached(fast, seen / trained.ours, peak))
    yield trained
    whole = compared(f"an epoch, {name}", "s", 1, run_and_test, epoch_and_test, rounds, 4, TIMES)
    yield noted(
        whole,
        f"{tested + stamped:,} images tested after each; "
        f"ours {2 * tested:,} once in {EPOCHS} epochs",
    )


def training_step(material: Material, rounds: int, peak: Peak) -> Figure:
    """Measure a step of ResNet-18: the mean of two."""
    fast = ResNet18().build(TASK)
    plain = ResNet18().build(TASK)
    two = RECIPE.replace(steps=2)

    def ours() -> None:
        fit(fast, material.mine, two, generator=generator)

    def theirs() -> None:
        usual.train(plain, material.theirs, 2)

    name = "training step, ResNet-18, batch 128"
    figure = compared(name, "s", 0.5, ours, theirs, rounds, 2.3)
    return noted(figure, reached(ResNet18().build(TASK), 128 / figure.ours, peak))


def reached(model: nn.Module, images_a_second: float, peak: Peak) -> str:
    """Say what training at this rate comes to, beside the ceiling."""
    with FlopCounterMode(display=False) as counter:
        model.train()(torch.rand(8, 3, 32, 32)).sum().backward()
    rate = images_a_second * counter.get_total_flops() / 8 / 1e9
    kind = probe_precision("auto", "cpu")
    share = rate / peak[f"conv {kind}"]
    return f"{rate:.0f} GFLOP/s, {share:.0%} of what {kind} convolutions reach alone"


def stage(folder: Path, times: int = 20) -> Figure:
    """Measure a fresh child process with torch, from asking for it to its record; copying and
    committing files not included.
    """
    base = folder / "children"
    base.mkdir()
    children = Children(base, entry=noop.ENTRY, preload=PRELOAD)
    seconds = []
    try:
        for number in range(times + 1):
            seconds.append(_child_seconds(children, base / str(number)))
    finally:
        children.stop()
    middle = statistics.median(seconds[1:]) * 1e3  # the first waits for the import of torch
    return alone("a fresh child with a first optimiser step", "ms", middle, "60 ms", middle < 60)


def _child_seconds(children: Children, scratch: Path) -> float:
    """Run one child; raise RuntimeError if it did not end well, since failing is quick."""
    (scratch / "inputs").mkdir(parents=True)
    (scratch / "out").mkdir()
    record = {}

    def run() -> None:
        record.update(children.run({"scratch": str(scratch)}, scratch))

    seconds = timed(run)
    if record["status"] != "ok":
        raise RuntimeError(f"a child ended with {record}")
    return seconds


def images_seen(clean: int) -> Figure:
    """Count the images that go through the network in a fine-tuning on `clean` images."""
    # The stage `evaluate` triggers images of the target class, too, which metrics leave out.
    ours = EPOCHS * clean + 2 * CLEAN
    theirs = EPOCHS * (clean + CLEAN + TRIGGERED)
    ratio = theirs / ours
    return Figure(
        f"images, 100 epochs of fine-tuning on {clean}",
        "images",
        ours=ours,
        theirs=theirs,
        ratio=ratio,
        low=None,
        high=None,
        goal="8 x",
        reached=ratio >= 8,
        note="counted, not timed: no evaluation in between",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="pairs of measurements (default: 9)")
    parser.add_argument("--quick", action="store_true", help="leave out whole grids")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    peak = ceilings()
    with tempfile.TemporaryDirectory() as name:
        measured = list(figures(options.rounds, Path(name), peak))
        if not options.quick:
            measured += grids.whole(Path(name))
    print(table(measured))
    rates = ", ".join(f"{kind} {rate:.0f}" for kind, rate in peak.items())
    print(f"One thread reaches, in GFLOP/s: {rates}")
    records.write(ceilings_gflops=peak, figures=[asdict(figure) for figure in measured])


if __name__ == "__main__":
    main()
