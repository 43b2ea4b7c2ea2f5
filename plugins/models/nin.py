"""The Network in Network of MOTH and DECK."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import Task
from plugins.models.normalised import NormalisedModel

if TYPE_CHECKING:
    from torch import nn

DROPOUT = 0.5
"""share that is dropped after each pooling"""


class NiN(NormalisedModel):
    """Network in Network as MOTH and DECK train it, without BatchNorm.

    Convolutions of 5x5, 5x5 and 3x3 are followed by two of 1x1 each. The last 1x1 convolution gives
    the classes; it is rectified as well, so logits are not negative, and averaged over the image.
    It is the head: a linear layer that is applied to every pixel.
    """

    citation = "Lin et al., Network In Network, ICLR 2014 (arXiv 1312.4400)"

    def build(self, task: Task) -> nn.Module:
        """Return a network from (n, channels, height, width) images to (n, classes) logits.

        Raises ValueError where `compatible` objects.
        """
        # Torch is imported late: a plan reads parameters and builds nothing.
        from torch import nn

        from plugins.models.blocks import GlobalMean, PointwiseLinear, initialise

        def group(inputs: int, kernel: int, *widths: int) -> nn.Sequential:
            """Return a convolution and others of 1x1 after it, each with ReLU."""
            layers = nn.Sequential()
            for width in widths:
                layers.append(nn.Conv2d(inputs, width, kernel, padding=kernel // 2))
                layers.append(nn.ReLU())
                inputs = width
                kernel = 1
            return layers

        def pooled(layers: nn.Sequential) -> nn.Sequential:
            layers.append(nn.MaxPool2d(3, stride=2, padding=1))
            return layers.append(nn.Dropout(DROPOUT))

        parts = self.entrance(task)
        parts["stem"] = pooled(group(task.channels, 5, 192, 160, 96))
        parts["stage1"] = pooled(group(96, 5, 192, 192, 192))
        parts["stage2"] = group(192, 3, 192, 192)
        parts["head"] = PointwiseLinear(192, task.classes)
        parts["relu"] = nn.ReLU()
        parts["pool"] = GlobalMean()
        parts["flatten"] = nn.Flatten()
        net = nn.Sequential()
        for name, part in parts.items():
            net.add_module(name, part)
        initialise(net)
        return net
