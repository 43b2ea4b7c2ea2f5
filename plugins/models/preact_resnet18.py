"""The pre-activation ResNet-18 that WaNet and IAB release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from harness import Task
from plugins.models.normalised import NormalisedModel
from plugins.models.resnet18 import CIFAR_MEAN

if TYPE_CHECKING:
    from torch import nn


class PreActResNet18(NormalisedModel):
    """ResNet-18 with pre-activation blocks and the stem for small images: the network of WaNet and
    IAB.

    Convolutions have no biases; a block whose size changes convolves its activated input as the
    shortcut.
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

    width: Annotated[int, Field(ge=1)] = 64
    """channels of the stem and of the first stage; the others have 2, 4 and 8 times as many"""
    last_norm: bool = False
    """BatchNorm and ReLU before the pooling, as in He et al.; the released networks of WaNet and
    IAB have neither
    """

    def build(self, task: Task) -> nn.Module:
        """(n, channels, height, width) images to (n, classes) logits. Raises ValueError where
        `compatible` objects.
        """
        from functools import partial

        from torch import nn

        from plugins.models.blocks import Conv3x3, GlobalMean, PreActivationBlock, assemble, row

        block = partial(PreActivationBlock, bias=False, trailing=False)
        parts = self.entrance(task)
        parts["stem"] = Conv3x3(task.channels, self.width)
        inputs = self.width
        for number, (factor, stride) in enumerate([(1, 1), (2, 2), (4, 2), (8, 2)], start=1):
            parts[f"stage{number}"] = row(block, inputs, self.width * factor, stride, count=2)
            inputs = self.width * factor
        if self.last_norm:
            parts["last"] = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        parts["pool"] = GlobalMean()
        return assemble(parts, inputs, task.classes)
