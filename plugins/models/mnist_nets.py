"""The two networks that ANP's supplement prunes on MNIST."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from harness import Context, Task
from plugins.models.blocks import assemble
from plugins.models.normalised import NormalisedModel

SMALLEST = 13
"""pixels of a side: two 5x5 convolutions without padding and a pooling between leave one"""


class CNN4(NormalisedModel):
    """Two 5x5 convolutions and 512 connected units: ANP's CNN for MNIST, of 560 neurons.

    The convolutions have 16 and 32 channels. The supplement gives the numbers of neurons alone.
    They are those of BadNets' own network for MNIST, whose convolutions are not padded and whose
    poolings are averages: so are these, except for the BatchNorm. The hidden layer of 512 units is
    the features; it is no stage, since stages are maps here.
    """

    citation = (
        "Gu et al., BadNets (arXiv 1708.06733), Table 1; Wu and Wang, ANP, NeurIPS 2021, "
        "supplement, Table 6"
    )

    norm: bool = True
    """BatchNorm after each hidden layer; without it the layers' own outputs are the neurons"""
    padded: bool = False
    """zeros around the maps, so that convolutions keep their size"""
    pool: Literal["average", "max"] = "average"
    """value that the two 2x2 poolings take"""

    def compatible(self, context: Context) -> str | None:
        """Require that unpadded convolutions leave at least a pixel."""
        task = context.task
        if not self.padded and min(task.height, task.width) < SMALLEST:
            return (
                f"cnn4 without padding needs images of {SMALLEST} x {SMALLEST} pixels at least; "
                f"those of {task.dataset} have {task.height} x {task.width}"
            )
        return super().compatible(context)

    def build(self, task: Task) -> nn.Module:
        """Return a network from (n, channels, height, width) images to (n, classes) logits.

        Raises ValueError where `compatible` objects.
        """
        parts = self.entrance(task)
        parts["stem"] = self._block(task.channels, 16)
        parts["stage1"] = self._block(16, 32)
        features = 32 * self._left(task.height) * self._left(task.width)
        hidden = _hidden(features, 512, self.norm)
        parts["hidden"] = nn.Sequential(nn.Flatten(), *hidden)
        return assemble(parts, 512, task.classes)

    def _block(self, inputs: int, outputs: int) -> nn.Sequential:
        padding = 2 if self.padded else 0
        block = nn.Sequential(nn.Conv2d(inputs, outputs, 5, padding=padding))
        if self.norm:
            block.append(nn.BatchNorm2d(outputs))
        block.append(nn.ReLU())
        if self.pool == "average":
            block.append(nn.AvgPool2d(2, ceil_mode=True))
        else:
            block.append(nn.MaxPool2d(2, ceil_mode=True))
        return block

    def _left(self, side: int) -> int:
        """Return the pixels of a side that convolutions and poolings leave."""
        for _ in range(2):
            if not self.padded:
                side -= 4
            side = math.ceil(side / 2)
        return side


class FC5(NormalisedModel):
    """Four hidden layers of 500 units and the output: ANP's fully connected network for MNIST.

    It has 2,000 neurons.
    """

    citation = (
        "Wu and Wang, Adversarial Neuron Pruning, NeurIPS 2021 (arXiv 2110.14430), supplement, "
        "Table 5"
    )

    norm: bool = True
    """BatchNorm after each hidden layer; without it the layers' own outputs are the neurons"""

    def build(self, task: Task) -> nn.Module:
        """Return a network from (n, channels, height, width) images to (n, classes) logits.

        Raises ValueError where `compatible` objects.
        """
        pixels = task.channels * task.height * task.width
        parts = self.entrance(task)
        parts["stem"] = nn.Sequential(nn.Flatten(), *_hidden(pixels, 500, self.norm))
        for number in (1, 2, 3):
            parts[f"stage{number}"] = _hidden(500, 500, self.norm)
        return assemble(parts, 500, task.classes)


def _hidden(inputs: int, outputs: int, norm: bool) -> nn.Sequential:
    layer = nn.Sequential(nn.Linear(inputs, outputs))
    if norm:
        layer.append(nn.BatchNorm1d(outputs))
    layer.append(nn.ReLU())
    return layer
