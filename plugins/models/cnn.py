"""The small network that DECK trains on LISA's traffic signs."""

from __future__ import annotations

import math

from torch import nn

from harness import Context, Task
from plugins.models.blocks import assemble
from plugins.models.normalised import NormalisedModel

SMALLEST = 27
"""pixels: 8x8 at stride 2 keeps half, 6x6 at stride 2 and 5x5 without padding leave one"""


class CNN(NormalisedModel):
    """Three convolutions (8x8, 6x6, 5x5) without BatchNorm: DECK's network for LISA.

    They have 64, 128 and 128 channels. The first two have stride 2; only the first is padded.
    """

    citation = "Eykholt et al., Robust Physical-World Attacks, CVPR 2018 (arXiv 1707.08945)"

    def compatible(self, context: Context) -> str | None:
        """Require that the unpadded convolutions leave at least a pixel."""
        task = context.task
        if min(task.height, task.width) < SMALLEST:
            return (
                f"cnn needs images of {SMALLEST} x {SMALLEST} pixels at least; "
                f"those of {task.dataset} have {task.height} x {task.width}"
            )
        return super().compatible(context)

    def build(self, task: Task) -> nn.Module:
        """Return a network from (n, channels, height, width) images to (n, classes) logits.

        Raises ValueError where `compatible` objects.
        """
        parts = self.entrance(task)
        conv1 = nn.Conv2d(task.channels, 64, 8, stride=2)
        conv2 = nn.Conv2d(64, 128, 6, stride=2)
        conv3 = nn.Conv2d(128, 128, 5)
        parts["stem"] = nn.Sequential(_same(task, 8), conv1, nn.ReLU())
        parts["stage1"] = nn.Sequential(conv2, nn.ReLU())
        parts["stage2"] = nn.Sequential(conv3, nn.ReLU())
        features = 128 * _left(task.height) * _left(task.width)
        return assemble(parts, features, task.classes)


def _left(side: int) -> int:
    """Return the pixels of a side that the convolutions leave."""
    halved = math.ceil(side / 2)  # 8x8, padded, at stride 2
    quartered = (halved - 6) // 2 + 1  # 6x6 at stride 2
    return quartered - 4  # 5x5


def _same(task: Task, kernel: int) -> nn.Module:
    """Return the padding with which a convolution of stride 2 halves the image, rounded up.

    An odd pixel goes to the end.
    """
    left, right = _margins(task.width, kernel)
    top, bottom = _margins(task.height, kernel)
    return nn.ZeroPad2d((left, right, top, bottom))


def _margins(side: int, kernel: int) -> tuple[int, int]:
    halved = math.ceil(side / 2)
    total = max(0, (halved - 1) * 2 + kernel - side)
    before = total // 2
    return before, total - before
