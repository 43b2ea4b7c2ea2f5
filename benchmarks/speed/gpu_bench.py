"""The device that benchmarks/speed/gpu.py measures, and the lines of its table."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness import Recipe, Task
from harness.learn import ImageSet, kernels
from plugins.models.resnet18 import ResNet18

TASK = Task("noise", 10, 32, 32, 3, 50000)
RECIPE = Recipe(epochs=1, batch=128, lr=0.01, crop=4, flip=True)

TIMES = 20
"""Times that a round of a ceiling does its work on a GPU."""


@dataclass(frozen=True)
class Figure:
    """One line of the table. `goal` says what the value should be, `reached` whether it is; None:
    there is no goal.
    """

    name: str
    value: float
    unit: str
    goal: str = ""
    reached: bool | None = None
    note: str = ""


class Bench:
    """The device, how much to do, and what was measured."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.device = torch.device(options.device)
        self.cuda = self.device.type == "cuda"
        self.whole = self.cuda and options.images == 50000 and options.width == 64
        """True if sizes are those that goals are about."""
        self.peak: dict[str, float] = {}
        self.details: dict[str, Any] = {}

    def wait(self) -> None:
        """Wait until the device has done what it was asked for."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """Return the seconds that work takes, on the device too."""
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began

    def best(self, work: Callable[[], object]) -> float:
        """Return the seconds of work in the fastest of several rounds: a ceiling is what a machine
        can do.

        On a GPU a round has it done so often that starting and waiting do not count, by the kernels
        that are fastest here, as training has them.
        """
        times = TIMES if self.cuda else 1
        rounds = 20 if self.cuda else 3

        def round_of_it() -> None:
            for _ in range(times):
                work()

        with kernels(False):
            round_of_it()
            return min(self.seconds(round_of_it) for _ in range(rounds)) / times

    def pictures(self, count: int) -> ImageSet:
        """Draw noise, on the CPU."""
        draw = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=draw)
        return ImageSet(images, torch.randint(0, 10, (count,), generator=draw))

    def network(self) -> nn.Module:
        """Build a ResNet-18, the same at each call."""
        torch.manual_seed(0)
        return ResNet18(width=self.options.width).build(TASK)


def stream(name: str) -> torch.Generator:
    """Return a generator for a stream that `fit` draws from."""
    return torch.Generator().manual_seed(len(name))
