"""VGG with BatchNorm in the sizes that suit small images."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from harness import Task
from plugins.models.normalised import NormalisedModel

if TYPE_CHECKING:
    from torch import nn

WIDTHS = (64, 128, 256, 512, 512)
"""channels of the five groups of convolutions; each group ends in 2x2 max-pooling"""


class VGG11(NormalisedModel):
    """VGG-11 with BatchNorm and one linear layer, for small images: eight convolutions.

    The first group of convolutions is the stem and the other four are the stages. A pooling rounds
    sizes up, so that images need not have 32 x 32 pixels.
    """

    citation = (
        "Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015 (arXiv 1409.1556)"
    )
    depths: ClassVar[tuple[int, ...]] = (1, 1, 2, 2, 2)
    """convolutions of each group"""

    def build(self, task: Task) -> nn.Module:
        """(n, channels, height, width) images to (n, classes) logits. Raises ValueError where
        `compatible` objects.
        """
        from torch import nn

        from plugins.models.blocks import Conv3x3, GlobalMean, assemble

        parts = self.entrance(task)
        inputs = task.channels
        for number, (outputs, depth) in enumerate(zip(WIDTHS, self.depths, strict=True)):
            layers: list[nn.Module] = []
            for _ in range(depth):
                layers += [Conv3x3(inputs, outputs, bias=True), nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            parts[f"stage{number}" if number else "stem"] = nn.Sequential(*layers)
        parts["pool"] = GlobalMean()
        return assemble(parts, inputs, task.classes)


class VGG13(VGG11):
    """VGG-13 with BatchNorm and one linear layer, for small images: ten convolutions, as `vgg11`."""

    depths: ClassVar[tuple[int, ...]] = (2, 2, 2, 2, 2)


class VGG19(VGG11):
    """VGG-19 with BatchNorm and one linear layer, for small images: sixteen convolutions, as
    `vgg11`.
    """

    depths: ClassVar[tuple[int, ...]] = (2, 2, 4, 4, 4)
