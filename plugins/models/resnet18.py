"""ResNet-18, -34 and -50 as the backdoor papers use them on small images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from harness import Task
from plugins.models.normalised import NormalisedModel

if TYPE_CHECKING:
    from torch import nn

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)


class ResNet18(NormalisedModel):
    """ResNet-18 with the stem for small images (3x3, stride 1, no pooling): the network of ANP and
    BCU.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # The two papers' code releases divide by different standard deviations; BCU normalises
        # CIFAR-10 only.
        "anp": {"mean": CIFAR_MEAN, "std": (0.2023, 0.1994, 0.2010)},
        "bcu": {"mean": CIFAR_MEAN, "std": (0.247, 0.243, 0.261)},
        "bcu/gtsrb": {"mean": None, "std": None},
    }
    citation = (
        "He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv 1512.03385)"
    )
    depths: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)
    """residual blocks of each stage"""
    bottleneck: ClassVar[bool] = False
    """whether blocks are 1x1, 3x3, 1x1 convolutions that end in four times as many channels"""

    width: Annotated[int, Field(ge=1)] = 64
    """channels of the stem and of the first stage (four times that after a bottleneck); each
    further stage doubles
    """

    def build(self, task: Task) -> nn.Module:
        """(n, channels, height, width) images to (n, classes) logits. Raises ValueError where
        `compatible` objects.
        """
        from torch import nn

        from plugins.models.blocks import BasicBlock, Bottleneck, Conv3x3, GlobalMean, assemble, row

        parts = self.entrance(task)
        parts["stem"] = nn.Sequential(
            Conv3x3(task.channels, self.width), nn.BatchNorm2d(self.width), nn.ReLU()
        )
        inputs, wider = self.width, 4 if self.bottleneck else 1
        block = Bottleneck if self.bottleneck else BasicBlock
        for number, (factor, stride) in enumerate([(1, 1), (2, 2), (4, 2), (8, 2)], start=1):
            outputs = self.width * factor * wider
            parts[f"stage{number}"] = row(block, inputs, outputs, stride, self.depths[number - 1])
            inputs = outputs
        parts["pool"] = GlobalMean()
        return assemble(parts, inputs, task.classes)


class ResNet34(ResNet18):
    """ResNet-34 with the stem for small images."""

    depths: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)


class ResNet50(ResNet34):
    """ResNet-50 (bottleneck blocks) with the stem for small images: DECK's largest on CIFAR-10."""

    bottleneck: ClassVar[bool] = True
