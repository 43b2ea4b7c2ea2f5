"""A four-layer network that trains in seconds on one CPU core."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import Context, Task
from plugins.models.normalised import NormalisedModel
from plugins.parts.ranges import Count

if TYPE_CHECKING:
    from torch import nn

SMALLEST = 8
"""pixels: the three poolings halve an image three times"""


class SmallCNN(NormalisedModel):
    """Four 3x3 convolutions with BatchNorm, then a global maximum: for laptops and small images.

    Three of them are pooled. Widths are w, 2w, 4w, 4w: 61 thousand parameters at w = 16 and 10
    classes.
    """

    width: Count = 16
    """channels of the first convolution"""

    def compatible(self, context: Context) -> str | None:
        """Require 8 x 8 pixels, which three poolings need."""
        task = context.task
        if min(task.height, task.width) < SMALLEST:
            return (
                f"small-cnn needs images of {SMALLEST} x {SMALLEST} pixels at least; "
                f"those of {task.dataset} have {task.height} x {task.width}"
            )
        return super().compatible(context)

    def build(self, task: Task) -> nn.Module:
        """Return a network from (n, channels, height, width) images to (n, classes) logits.

        Raises ValueError where `compatible` objects.
        """
        # Torch is imported late: a plan reads parameters and builds nothing.
        from torch import nn

        from plugins.models.blocks import Conv3x3, GlobalMax, assemble

        def block(inputs: int, outputs: int, *pool: nn.Module) -> nn.Sequential:
            # A maximum and a ReLU may change places, gradients included; this way a ReLU has a
            # quarter of the work.
            return nn.Sequential(
                Conv3x3(inputs, outputs), nn.BatchNorm2d(outputs), *pool, nn.ReLU()
            )

        w = self.width
        parts = self.entrance(task)
        parts["stem"] = block(task.channels, w, nn.MaxPool2d(2))
        parts["stage1"] = block(w, 2 * w, nn.MaxPool2d(2))
        parts["stage2"] = block(2 * w, 4 * w, nn.MaxPool2d(2))
        parts["stage3"] = block(4 * w, 4 * w)
        parts["pool"] = GlobalMax()
        return assemble(parts, 4 * w, task.classes)
