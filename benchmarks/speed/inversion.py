"""The gain from inverting triggers together rather than one label after the other. Prints one line
for each batch size.

    python benchmarks/speed/inversion.py

Both ways make the same steps on the same images, in turn within one process, so that a machine that
others use slows both alike; what counts is the median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from harness import Task
from plugins.models.small_cnn import SmallCNN
from plugins.parts.inversion import Inversion, Rule

CLASSES = 10
TOGETHER = [list(range(CLASSES))]
APART = [[label] for label in range(CLASSES)]


class Uncounted:
    """Stands for a workbench."""

    def tick(self, images: int = 0, done: int | None = None, of: int = 0) -> None:
        """Count nothing."""


def seconds(model: nn.Module, images: torch.Tensor, groups: list[list[int]], batch: int) -> float:
    """Return the seconds of one step for all labels, those of a group together."""
    places = torch.arange(batch)[None]
    _, height, width, channels = images.shape
    inversions = []
    for group in groups:
        mask = torch.full((len(group), 1, height, width), 0.5)
        pattern = torch.full((len(group), channels, height, width), 0.5)
        inversion = Inversion(
            Uncounted(),  # type: ignore[arg-type]
            model,
            images,
            group,
            (mask, pattern),
            Rule(),
            0.1,
            batch * CLASSES,
        )
        inversions.append(inversion)
    started = time.perf_counter()
    for group, inversion in zip(groups, inversions, strict=True):
        inversion.step(range(len(group)), [places])
    return time.perf_counter() - started


def measure(model: nn.Module, images: torch.Tensor, batch: int, rounds: int) -> str:
    """Time both ways in turn; return the line for this batch size."""
    for groups in (TOGETHER, APART):
        seconds(model, images, groups, batch)
    apart = []
    together = []
    ratios = []
    for _ in range(rounds):
        apart.append(seconds(model, images, APART, batch))
        together.append(seconds(model, images, TOGETHER, batch))
        ratios.append(apart[-1] / together[-1])
    ratios.sort()
    tenth = len(ratios) // 10
    return (
        f"{batch} images a label: {statistics.median(ratios):.2f} "
        f"({ratios[tenth]:.2f} to {ratios[-1 - tenth]:.2f}); "
        f"medians {1000 * statistics.median(apart):.1f} ms "
        f"{1000 * statistics.median(together):.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--rounds", type=int, default=30, help="measurements of each way (default: 30)")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--threads", type=int, default=1, help="CPU threads (default: 1)")
    add("--size", type=int, default=32, help="pixels of an image's side (default: 32)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    side = options.size
    task = Task("noise", CLASSES, side, side, 3, 1)
    model = SmallCNN().build(task).to(options.device).eval().requires_grad_(False)
    for batch in (4, 16, 32):
        noise = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8)
        print(measure(model, noise.to(options.device), batch, options.rounds))


if __name__ == "__main__":
    main()
