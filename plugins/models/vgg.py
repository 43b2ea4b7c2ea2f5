"""VGG with BatchNorm in the sizes that suit small images."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from harness import Task
from plugins.models.blocks import Conv3x3, GlobalMean, assemble
from plugins.models.normalised import NormalisedModel

WIDTHS = (64, 128, 256, 512, 512)
"""channels of the five groups of convolutions; each group ends in 2x2 max-pooling"""


class VGG11(NormalisedModel):
    """VGG-11 with BatchNorm and one linear layer, for small images: 8 convolutions.

    The first group of convolutions is the stem and the other four are the stages. A pooling rounds
    sizes up, so that images need not have 32 x 32 pixels.
    """

    citation = (
        "Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015 (arXiv 1409.1556)"
    )
    depths: ClassVar[tuple[int, ...]] = (1, 1, 2, 2, 2)
    """convolutions of each group"""

    def build(self, task: Task) -> nn.Module:
        """Return a network from (n, channels, height, width) images to (n, classes) logits.

        Raises ValueError where `compatible` objects.
        """
        parts = self.entrance(task)
        inputs = task.channels
        for number, (outputs, depth) in enumerate(zip(WIDTHS, self.depths, strict=True)):
            group = nn.Sequential()
            for _ in range(depth):
                group.append(Conv3x3(inputs, outputs, bias=True))
                group.append(nn.BatchNorm2d(outputs))
                group.append(nn.ReLU())
                inputs = outputs
            group.append(nn.MaxPool2d(2, ceil_mode=True))
            name = f"stage{number}" if number > 0 else "stem"
            parts[name] = group
        parts["pool"] = GlobalMean()
        return assemble(parts, inputs, task.classes)


class VGG13(VGG11):
    """VGG-13 with BatchNorm and one linear layer, for small images: 10 convolutions, as `vgg11`."""

    depths: ClassVar[tuple[int, ...]] = (2, 2, 2, 2, 2)


class VGG19(VGG11):
    """VGG-19 with BatchNorm and one linear layer, for small images: 16 convolutions, as `vgg11`."""

    depths: ClassVar[tuple[int, ...]] = (2, 2, 4, 4, 4)
