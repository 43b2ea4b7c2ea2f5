"""The Wide ResNet of Trap-and-Replace."""

from __future__ import annotations

from functools import partial

from torch import nn

from harness import Task
from plugins.models.blocks import Conv3x3, GlobalMean, PreActivationBlock, assemble, row
from plugins.models.normalised import NormalisedModel

SLOPE = 0.1
"""of the LeakyReLU below zero, as Trap-and-Replace has it"""


class WRN16(NormalisedModel):
    """Wide ResNet 16-1, with two pre-activation blocks a stage: Trap-and-Replace's network.

    The three stages have 16, 32 and 64 channels. Activations are LeakyReLU with slope 0.1 and
    convolutions have biases; its authors do not normalise inputs. The published stem ends after the
    fifth of the six blocks.
    """

    citation = "Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016 (arXiv 1605.07146)"

    def build(self, task: Task) -> nn.Module:
        """Return a network from (n, channels, height, width) images to (n, classes) logits.

        Raises ValueError where `compatible` objects.
        """
        block = partial(PreActivationBlock, trailing=False, slope=SLOPE)
        parts = self.entrance(task)
        parts["stem"] = Conv3x3(task.channels, 16, bias=True)
        inputs = 16
        for number, (outputs, stride) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
            parts[f"stage{number}"] = row(block, inputs, outputs, stride, count=2)
            inputs = outputs
        parts["last"] = nn.Sequential(nn.BatchNorm2d(inputs), nn.LeakyReLU(SLOPE))
        parts["pool"] = GlobalMean()
        return assemble(parts, inputs, task.classes)
