"""The two networks that ANP's supplement prunes on MNIST."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from harness import Context, Task
from plugins.models.normalised import NormalisedModel

if TYPE_CHECKING:
    from torch import nn

SMALLEST = 13
"""pixels of a side that two 5x5 convolutions without padding, with a pooling between, leave one of
"""


class CNN4(NormalisedModel):
    """Two 5x5 convolutions with 16 and 32 channels and 512 fully connected units: ANP's CNN for
    MNIST, of 560 neurons.

    The supplement gives the numbers of neurons alone. They are those of BadNets' own network for
    MNIST, whose convolutions are not padded and whose poolings are averages: so are these, but for
    the BatchNorm. The hidden layer of 512 units is the features; it is no stage, since stages are
    maps here.
    """

    citation = "Gu et al., BadNets (arXiv 1708.06733), Table 1; Wu and Wang, ANP, NeurIPS 2021, supplement, Table 6"

    norm: bool = True
    """BatchNorm after each hidden layer; without it the layers' own outputs are the neurons"""
    padded: bool = False
    """zeros around the maps, so that convolutions keep their size"""
    pool: Literal["average", "max"] = "average"
    """what the two 2x2 poolings take"""

    def compatible(self, context: Context) -> str | None:
        """What unpadded convolutions leave must not be empty."""
        task = context.task
        if not self.padded and min(task.height, task.width) < SMALLEST:
            return (
                f"cnn4 without padding needs images of {SMALLEST} x {SMALLEST} pixels at least; "
                f"those of {task.dataset} have {task.height} x {task.width}"
            )
        return super().compatible(context)

    def build(self, task: Task) -> nn.Module:
        """(n, channels, height, width) images to (n, classes) logits. Raises ValueError where
        `compatible` objects.
        """
        from torch import nn

        from plugins.models.blocks import assemble

        pool = nn.AvgPool2d if self.pool == "average" else nn.MaxPool2d

        def block(inputs: int, outputs: int) -> nn.Sequential:
            norm = [nn.BatchNorm2d(outputs)] if self.norm else []
            conv = nn.Conv2d(inputs, outputs, 5, padding=2 if self.padded else 0)
            return nn.Sequential(conv, *norm, nn.ReLU(), pool(2, ceil_mode=True))

        height, width = (self._halved(self._halved(size)) for size in (task.height, task.width))
        parts = self.entrance(task) | {
            "stem": block(task.channels, 16),
            "stage1": block(16, 32),
            "hidden": nn.Sequential(nn.Flatten(), *_hidden(32 * height * width, 512, self.norm)),
        }
        return assemble(parts, 512, task.classes)

    def _halved(self, size: int) -> int:
        """What one convolution and one pooling leave of a side, in pixels."""
        return -(-(size if self.padded else size - 4) // 2)


class FC5(NormalisedModel):
    """Four hidden layers of 500 units and the output: ANP's fully connected network for MNIST, of
    2,000 neurons.
    """

    citation = "Wu and Wang, Adversarial Neuron Pruning, NeurIPS 2021 (arXiv 2110.14430), supplement, Table 5"

    norm: bool = True
    """BatchNorm after each hidden layer; without it the layers' own outputs are the neurons"""

    def build(self, task: Task) -> nn.Module:
        """(n, channels, height, width) images to (n, classes) logits. Raises ValueError where
        `compatible` objects.
        """
        from torch import nn

        from plugins.models.blocks import assemble

        pixels = task.channels * task.height * task.width
        parts = self.entrance(task)
        parts["stem"] = nn.Sequential(nn.Flatten(), *_hidden(pixels, 500, self.norm))
        for number in (1, 2, 3):
            parts[f"stage{number}"] = nn.Sequential(*_hidden(500, 500, self.norm))
        return assemble(parts, 500, task.classes)


def _hidden(inputs: int, outputs: int, norm: bool) -> list[nn.Module]:
    from torch import nn

    return [nn.Linear(inputs, outputs), *([nn.BatchNorm1d(outputs)] if norm else []), nn.ReLU()]
