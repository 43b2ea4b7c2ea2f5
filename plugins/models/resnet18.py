"""ResNet-18 as the backdoor papers use it on small images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from harness.components import Task
from plugins.models.normalised import NormalisedModel

if TYPE_CHECKING:
    from torch import nn

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)


class ResNet18(NormalisedModel):
    """ResNet-18 with the stem for small images (3x3, stride 1, no pooling): the network of ANP and BCU."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # The two papers' code releases divide by different standard deviations; BCU normalises CIFAR-10 only.
        "anp": {"mean": CIFAR_MEAN, "std": (0.2023, 0.1994, 0.2010)},
        "bcu": {"mean": CIFAR_MEAN, "std": (0.247, 0.243, 0.261)},
        "bcu/gtsrb": {"mean": None, "std": None},
    }
    citation = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv 1512.03385)"

    width: Annotated[int, Field(ge=1)] = 64
    """channels of the first stage; the others have 2, 4 and 8 times as many"""

    def build(self, task: Task) -> nn.Module:
        """(n, channels, height, width) images to (n, classes) logits. Raises ValueError where `compatible` objects."""
        from torch import nn

        from plugins.models.blocks import BasicBlock, Conv3x3, GlobalMean, assemble

        parts = self.entrance(task)
        parts["stem"] = nn.Sequential(Conv3x3(task.channels, self.width), nn.BatchNorm2d(self.width), nn.ReLU())
        inputs = self.width
        for number, (factor, stride) in enumerate([(1, 1), (2, 2), (4, 2), (8, 2)], start=1):
            outputs = self.width * factor
            parts[f"stage{number}"] = nn.Sequential(
                BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, stride=1)
            )
            inputs = outputs
        parts["pool"] = GlobalMean()
        return assemble(parts, inputs, task.classes)
