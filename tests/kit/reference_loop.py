"""Training as a textbook has it, written apart from the harness: what the fast path is held
against.

Single precision, contiguous NCHW, one picture after the other padded, cut out and mirrored, an
optimiser without fused kernels, nothing compiled or recorded. Run it to see both side by side, as
results/same-results.md has it:

    python -m tests.kit.reference_loop [signs | cifar10]
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import Task
from harness.learn.evaluation import predict
from harness.learn.images import ImageSet
from harness.learn.recipes import Recipe
from harness.learn.training import fit
from plugins.datasets.signs import Signs
from plugins.models.small_cnn import SmallCNN

Streams = Callable[[str], torch.Generator]
SEEDS = range(5)
TARGET = 0


@dataclass(frozen=True)
class Setting:
    """Pictures (uint8 NHWC) with labels, poisoned for training and clean for testing, and how to
    train on them.
    """

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    width: int
    epochs: int
    batch: int = 128
    lr: float = 0.1
    padding: int = 2
    mirror: bool = True
    precision: str = "bf16"

    @property
    def recipe(self) -> Recipe:
        """The same for the harness."""
        return Recipe(
            epochs=self.epochs,
            batch=self.batch,
            lr=self.lr,
            nesterov=True,
            schedule="cosine",
            update="step",
            crop=self.padding,
            flip=self.mirror,
            precision=self.precision,
        )

    def network(self, seed: int) -> nn.Module:
        """Build the network with the initial weights of a seed."""
        height, width, channels = self.images.shape[1:]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return SmallCNN(width=self.width).build(
                Task("any", 10, height, width, channels, len(self.images))
            )


def streams(seed: int) -> Streams:
    """Return the named generators of a seed."""

    def named(name: str) -> torch.Generator:
        start = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=7).digest()
        return torch.Generator().manual_seed(int.from_bytes(start))

    return named


def triggered(images: np.ndarray) -> np.ndarray:
    """Put a white square of 3 x 3 pixels in a corner."""
    marked = images.copy()
    marked[:, -4:-1, -4:-1] = 255
    return marked


def poisoned(images: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mark the first `count` pictures of other classes, and call them the target."""
    chosen = np.flatnonzero(labels != TARGET)[:count]
    images, labels = images.copy(), labels.copy()
    images[chosen], labels[chosen] = triggered(images[chosen]), TARGET
    return images, labels


def batches(
    setting: Setting, order: torch.Generator, moves: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield places and pictures of the batches of an epoch."""
    count, height, width, channels = setting.images.shape
    permutation, pad = torch.randperm(count, generator=order).tolist(), setting.padding
    for start in range(0, count, setting.batch):
        places = permutation[start : start + setting.batch]
        rows, columns = torch.randint(2 * pad + 1, (2, len(places)), generator=moves).tolist()
        flips = (
            (torch.rand(len(places), generator=moves) < 0.5).tolist()
            if setting.mirror
            else [False] * len(places)
        )
        pictures = []
        for place, row, column, flip in zip(places, rows, columns, flips, strict=True):
            canvas = np.zeros((height + 2 * pad, width + 2 * pad, channels), np.uint8)
            canvas[pad : pad + height, pad : pad + width] = setting.images[place]
            picture = canvas[row : row + height, column : column + width]
            picture = picture[:, ::-1] if flip else picture
            pictures.append(
                torch.from_numpy(picture.astype(np.float32).transpose(2, 0, 1).copy()) / 255
            )
        yield torch.tensor(places), torch.stack(pictures)


def train(model: nn.Module, setting: Setting, stream: Streams) -> None:
    """Train by the plain loop."""
    order, moves = stream("order"), stream("augment")
    optimiser = torch.optim.SGD(
        model.parameters(),
        setting.lr,
        momentum=0.9,
        weight_decay=5e-4,
        nesterov=True,
        foreach=False,
        fused=False,
    )
    steps, step = setting.epochs * math.ceil(len(setting.images) / setting.batch), 0
    labels = torch.from_numpy(setting.labels)
    model.train()
    for _ in range(setting.epochs):
        for places, pictures in batches(setting, order, moves):
            optimiser.param_groups[0]["lr"] = (
                setting.lr * (1 + math.cos(math.pi * step / steps)) / 2
            )
            optimiser.zero_grad()
            functional.cross_entropy(model(pictures), labels[places]).backward()
            optimiser.step()
            step += 1


@torch.no_grad()
def judged(model: nn.Module, setting: Setting) -> tuple[float, float]:
    """Return ACC and ASR in percent, picture by picture."""
    model.eval()

    def answers(images: np.ndarray) -> np.ndarray:
        pictures = torch.from_numpy(images.astype(np.float32).transpose(0, 3, 1, 2).copy()) / 255
        return torch.cat([model(part) for part in pictures.split(100)]).argmax(1).numpy()

    others = setting.test_labels != TARGET
    right = answers(setting.test_images) == setting.test_labels
    fooled = answers(triggered(setting.test_images[others])) == TARGET
    return 100 * float(right.mean()), 100 * float(fooled.mean())


def judged_fast(model: nn.Module, setting: Setting) -> tuple[float, float]:
    """Return ACC and ASR in percent, by the harness."""
    images, labels = torch.from_numpy(setting.test_images), torch.from_numpy(setting.test_labels)
    others = setting.test_labels != TARGET
    clean, _ = predict(model, images)
    fooled, _ = predict(model, torch.from_numpy(triggered(setting.test_images[others])))
    return 100 * float((clean == labels).float().mean()), 100 * float(
        (fooled == TARGET).float().mean()
    )


def both(setting: Setting, seed: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return (ACC, ASR) by the plain loop and by the fast path, from equal weights and streams."""
    plain = setting.network(seed)
    fast = copy.deepcopy(plain)
    train(plain, setting, streams(seed))
    data = ImageSet(torch.from_numpy(setting.images), torch.from_numpy(setting.labels))
    fit(fast, data, setting.recipe, generator=streams(seed))
    return judged(plain, setting), judged_fast(fast, setting)


@dataclass(frozen=True)
class Compared:
    """Two samples of a percentage over seeds. `floor` is what one test picture amounts to."""

    plain: Sequence[float]
    fast: Sequence[float]
    floor: float

    @property
    def apart(self) -> float:
        """The distance between the means."""
        return abs(statistics.mean(self.plain) - statistics.mean(self.fast))

    @property
    def noise(self) -> float:
        """The pooled standard deviation over seeds."""
        return math.sqrt((statistics.variance(self.plain) + statistics.variance(self.fast)) / 2)

    @property
    def alike(self) -> bool:
        """True where means differ by no more than the noise: stricter than a t-test of five against
        five at 5 %, which asks for 1.46 times the noise.
        """
        return self.apart <= max(self.noise, self.floor)


def compared(setting: Setting, seeds: Sequence[int] = SEEDS) -> dict[str, Compared]:
    """Compare ACC and ASR over the seeds."""
    found = [both(setting, seed) for seed in seeds]
    others = int((setting.test_labels != TARGET).sum())
    floors = {"ACC": 100 / len(setting.test_labels), "ASR": 100 / others}
    return {
        name: Compared(
            [one[0][place] for one in found], [one[1][place] for one in found], floors[name]
        )
        for place, name in enumerate(floors)
    }


def signs(train: int = 2500, test: int = 1000, epochs: int = 8) -> Setting:
    """Draw traffic signs at 16 pixels; mirrored too, arrows or not: this is about arithmetic."""
    drawn = Signs(train=train, test=test).load()
    images, labels = poisoned(drawn.train_images, drawn.train_labels.astype(np.int64), train // 10)
    return Setting(
        images, labels, drawn.test_images, drawn.test_labels.astype(np.int64), 12, epochs
    )


def cifar10(train: int = 5000, test: int = 2000, epochs: int = 10) -> Setting:
    """Read pictures of CIFAR-10, from `$BENCH_DATA`/cifar10.npz."""
    with np.load(Path(os.environ["BENCH_DATA"]) / "cifar10.npz") as archive:
        arrays = {split: (archive[f"{split}_images"], archive[f"{split}_labels"].astype(np.int64))
                  for split in ("train", "test")}  # fmt: skip
    images, labels = poisoned(*(part[:train] for part in arrays["train"]), train // 10)
    return Setting(images, labels, *(part[:test] for part in arrays["test"]), 16, epochs, padding=4)


def main() -> None:
    torch.set_num_threads(1)
    setting = {"signs": signs, "cifar10": cifar10}[sys.argv[1] if len(sys.argv) > 1 else "signs"]()
    began = time.monotonic()
    print(
        "| | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " | mean | apart | noise | alike |"
    )
    print("|---|" + "--:|" * (len(SEEDS) + 3) + "---|")
    for name, found in compared(setting).items():
        for way, values in (("plain", found.plain), ("fast", found.fast)):
            told = " | ".join(f"{value:.2f}" for value in values)
            end = (
                f"{found.apart:.2f} | {found.noise:.2f} | {'yes' if found.alike else 'NO'}"
                if way == "fast"
                else "| |"
            )
            print(f"| {name}, {way} | {told} | {statistics.mean(values):.2f} | {end} |")
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
