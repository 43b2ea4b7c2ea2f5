"""The Network in Network of MOTH and DECK."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import Task
from plugins.models.normalised import NormalisedModel

if TYPE_CHECKING:
    from torch import nn

DROPOUT = 0.5


class NiN(NormalisedModel):
    """Network in Network as MOTH and DECK train it: 5x5, 5x5 and 3x3 convolutions, each with two of
    1x1; no BatchNorm.

    The last 1x1 convolution gives the classes; it is rectified as well, so logits are not negative,
    and averaged over the image. It is the head: a linear layer that is applied to every pixel.
    """

    citation = "Lin et al., Network In Network, ICLR 2014 (arXiv 1312.4400)"

    def build(self, task: Task) -> nn.Module:
        """(n, channels, height, width) images to (n, classes) logits. Raises ValueError where
        `compatible` objects.
        """
        from torch import nn

        from plugins.models.blocks import GlobalMean, PointwiseLinear, initialise

        def convolutions(inputs: int, kernel: int, *widths: int) -> list[nn.Module]:
            layers: list[nn.Module] = []
            for width in widths:
                layers += [nn.Conv2d(inputs, width, kernel, padding=kernel // 2), nn.ReLU()]
                inputs, kernel = width, 1
            return layers

        def pool() -> list[nn.Module]:
            return [nn.MaxPool2d(3, stride=2, padding=1), nn.Dropout(DROPOUT)]

        parts = self.entrance(task) | {
            "stem": nn.Sequential(*convolutions(task.channels, 5, 192, 160, 96), *pool()),
            "stage1": nn.Sequential(*convolutions(96, 5, 192, 192, 192), *pool()),
            "stage2": nn.Sequential(*convolutions(192, 3, 192, 192)),
            "head": PointwiseLinear(192, task.classes),
            "relu": nn.ReLU(),
            "pool": GlobalMean(),
            "flatten": nn.Flatten(),
        }
        net = nn.Sequential()
        for name, part in parts.items():
            net.add_module(name, part)
        initialise(net)
        return net
