"""The small network that DECK trains on LISA's traffic signs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import Context, Task
from plugins.models.normalised import NormalisedModel

if TYPE_CHECKING:
    from torch import nn

SMALLEST = 27
"""pixels: 8x8 at stride 2 keeps half, 6x6 at stride 2 and 5x5 without padding leave one"""


class CNN(NormalisedModel):
    """Three convolutions without BatchNorm, of 64 (8x8), 128 (6x6) and 128 (5x5) channels: the
    network for LISA.

    The first two have stride 2; only the first is padded.
    """

    citation = "Eykholt et al., Robust Physical-World Attacks, CVPR 2018 (arXiv 1707.08945)"

    def compatible(self, context: Context) -> str | None:
        """What the unpadded convolutions leave must not be empty."""
        task = context.task
        if min(task.height, task.width) < SMALLEST:
            return (
                f"cnn needs images of {SMALLEST} x {SMALLEST} pixels at least; "
                f"those of {task.dataset} have {task.height} x {task.width}"
            )
        return super().compatible(context)

    def build(self, task: Task) -> nn.Module:
        """(n, channels, height, width) images to (n, classes) logits. Raises ValueError where
        `compatible` objects.
        """
        from torch import nn

        from plugins.models.blocks import assemble

        parts = self.entrance(task) | {
            "stem": nn.Sequential(
                _same(task, 8), nn.Conv2d(task.channels, 64, 8, stride=2), nn.ReLU()
            ),
            "stage1": nn.Sequential(nn.Conv2d(64, 128, 6, stride=2), nn.ReLU()),
            "stage2": nn.Sequential(nn.Conv2d(128, 128, 5), nn.ReLU()),
        }
        height, width = ((-(-size // 2) - 6) // 2 + 1 - 4 for size in (task.height, task.width))
        return assemble(parts, 128 * height * width, task.classes)


def _same(task: Task, kernel: int) -> nn.Module:
    """Padding with which a convolution of stride 2 halves the image, rounded up; the odd pixel is
    at the end.
    """
    from torch import nn

    def sides(size: int) -> tuple[int, int]:
        total = max(0, (-(-size // 2) - 1) * 2 + kernel - size)
        return total // 2, total - total // 2

    return nn.ZeroPad2d((*sides(task.width), *sides(task.height)))
