"""How much faster are triggers inverted together than one label after the other? Prints one line a
batch size.

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


class Uncounted:
    """Stands for a workbench."""

    def tick(self, images: int = 0, done: int | None = None, of: int = 0) -> None:
        """Nobody watches."""


def seconds(model: nn.Module, images: torch.Tensor, groups: list[list[int]], batch: int) -> float:
    """One step for all labels, those of a group together."""
    places, size = torch.arange(batch)[None], tuple(images.shape[1:3])
    made = []
    for group in groups:
        starts = (
            torch.full((len(group), 1, *size), 0.5),
            torch.full((len(group), images.shape[3], *size), 0.5),
        )
        made.append(
            Inversion(Uncounted(), model, images, group, starts, Rule(), 0.1, batch * CLASSES)
        )  # type: ignore[arg-type]
    started = time.perf_counter()
    for group, inversion in zip(groups, made, strict=True):
        inversion.step(range(len(group)), [places])
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--rounds", type=int, default=30, help="measurements of each way (default: 30)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument(
        "--size", type=int, default=32, help="pixels of an image's side (default: 32)"
    )
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    task = Task("noise", CLASSES, asked.size, asked.size, 3, 1)
    model = SmallCNN().build(task).to(asked.device).eval().requires_grad_(False)
    together, apart = [list(range(CLASSES))], [[label] for label in range(CLASSES)]
    for batch in (4, 16, 32):
        images = torch.randint(0, 256, (batch, asked.size, asked.size, 3), dtype=torch.uint8).to(
            asked.device
        )
        for groups in (together, apart):
            seconds(model, images, groups, batch)
        pairs = [
            [seconds(model, images, groups, batch) for groups in (apart, together)]
            for _ in range(asked.rounds)
        ]
        ratios = sorted(one / all_ for one, all_ in pairs)
        low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
        told = " ".join(
            f"{1000 * statistics.median(column):.1f} ms" for column in zip(*pairs, strict=True)
        )
        print(
            f"{batch} images a label: {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f}); medians {told}"
        )


if __name__ == "__main__":
    main()
