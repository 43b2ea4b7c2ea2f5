"""ResNet-18, -34 and -50 as the backdoor papers use them on small images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from harness import Task
from plugins.models.normalised import NormalisedModel
from plugins.parts.ranges import Count

if TYPE_CHECKING:
    from torch import nn

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)


class ResNet18(NormalisedModel):
    """ResNet-18 with the stem for small images: the network of ANP and BCU.

    That stem is a 3x3 convolution of stride 1, without pooling.
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
    """blocks are 1x1, 3x3, 1x1 convolutions that end in four times as many channels"""

    width: Count = 64
    """channels of the stem and of the first stage (four times that after a bottleneck); each
    further stage doubles
    """

    def build(self, task: Task) -> nn.Module:
        """Return a network from (n, channels, height, width) images to (n, classes) logits.

        Raises ValueError where `compatible` objects.
        """
        # Torch is imported late: a plan reads parameters and builds nothing.
        from torch import nn

        from plugins.models.blocks import BasicBlock, Bottleneck, Conv3x3, GlobalMean, assemble, row

        parts = self.entrance(task)
        parts["stem"] = nn.Sequential(
            Conv3x3(task.channels, self.width), nn.BatchNorm2d(self.width), nn.ReLU()
        )
        inputs = self.width
        for number, depth in enumerate(self.depths):
            outputs = self.width * 2**number
            stride = 1 if number == 0 else 2
            if self.bottleneck:
                outputs *= 4
                stage = row(Bottleneck, inputs, outputs, stride, depth)
            else:
                stage = row(BasicBlock, inputs, outputs, stride, depth)
            parts[f"stage{number + 1}"] = stage
            inputs = outputs
        parts["pool"] = GlobalMean()
        return assemble(parts, inputs, task.classes)


class ResNet34(ResNet18):
    """ResNet-34 with the stem for small images."""

    depths: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)


class ResNet50(ResNet34):
    """ResNet-50 (bottleneck blocks) with the stem for small images: DECK's largest on CIFAR-10."""

    bottleneck: ClassVar[bool] = True
