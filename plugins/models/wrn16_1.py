"""The Wide ResNet of Trap-and-Replace."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import nn

from harness import Task
from plugins.models.blocks import Conv3x3, GlobalMean, PreActivationBlock, assemble, row
from plugins.models.normalised import NormalisedModel

SLOPE = 0.1
"""of the LeakyReLU below zero, as Trap-and-Replace has it"""


class WRN16(NormalisedModel):
    """Wide ResNet 16-1, with two pre-activation blocks a stage: Trap-and-Replace's network.

    The three stages have 16, 32 and 64 channels. As in Trap-and-Replace, activations are LeakyReLU
    with slope 0.1 and convolutions have biases unless told otherwise; its authors do not normalise
    inputs. The published stem ends after the fifth of the six blocks.
    """

    slope: Annotated[float, Field(ge=0, lt=1)] = SLOPE
    """the activations' slope below zero; 0: ReLU, as in NAD's and ABL's code"""
    bias: bool = True
    """whether convolutions have biases; false in NAD's and ABL's code"""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nad": {"slope": 0.0, "bias": False},
        "abl": {"slope": 0.0, "bias": False},
    }
    citation = "Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016 (arXiv 1605.07146)"

    def build(self, task: Task) -> nn.Module:
        """Return a network from (n, channels, height, width) images to (n, classes) logits.

        Raises ValueError where `compatible` objects.
        """
        block = partial(PreActivationBlock, trailing=False, bias=self.bias, slope=self.slope)
        parts = self.entrance(task)
        parts["stem"] = Conv3x3(task.channels, 16, bias=self.bias)
        inputs = 16
        for number, (outputs, stride) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
            parts[f"stage{number}"] = row(block, inputs, outputs, stride, count=2)
            inputs = outputs
        activation = nn.LeakyReLU(self.slope) if self.slope else nn.ReLU()
        parts["last"] = nn.Sequential(nn.BatchNorm2d(inputs), activation)
        parts["pool"] = GlobalMean()
        return assemble(parts, inputs, task.classes)
