"""The pre-activation ResNet-18 that WaNet and IAB release."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from torch import nn

from harness import Task
from plugins.models.blocks import Conv3x3, GlobalMean, PreActivationBlock, assemble, row
from plugins.models.normalised import NormalisedModel
from plugins.models.resnet18 import CIFAR_MEAN
from plugins.parts.ranges import Count


class PreActResNet18(NormalisedModel):
    """ResNet-18 with pre-activation blocks, for small images: the network of WaNet and IAB.

    The stem is a 3x3 convolution of stride 1. Convolutions have no biases; the shortcut of a block
    that changes the size convolves the activated input.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # WaNet's loader normalises CIFAR-10 by these, the other sets not at all.
        "wanet": {"mean": CIFAR_MEAN, "std": (0.247, 0.243, 0.261)},
        "wanet/gtsrb": {"mean": None, "std": None},
        "wanet/mnist": {"mean": None, "std": None},
    }
    citation = (
        "He et al., Identity Mappings in Deep Residual Networks, ECCV 2016 (arXiv 1603.05027)"
    )

    width: Count = 64
    """channels of the stem and of the first stage; the others have 2, 4 and 8 times as many"""
    last_norm: bool = False
    """BatchNorm and ReLU before the pooling, as in He et al.; the released networks of WaNet and
    IAB have neither
    """

    def build(self, task: Task) -> nn.Module:
        """Return a network from (n, channels, height, width) images to (n, classes) logits.

        Raises ValueError where `compatible` objects.
        """
        block = partial(PreActivationBlock, bias=False, trailing=False)
        parts = self.entrance(task)
        parts["stem"] = Conv3x3(task.channels, self.width)
        inputs = self.width
        for number, (factor, stride) in enumerate([(1, 1), (2, 2), (4, 2), (8, 2)], start=1):
            outputs = self.width * factor
            parts[f"stage{number}"] = row(block, inputs, outputs, stride, count=2)
            inputs = outputs
        if self.last_norm:
            parts["last"] = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        parts["pool"] = GlobalMean()
        return assemble(parts, inputs, task.classes)
