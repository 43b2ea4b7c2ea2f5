"""trojan-sq: a small square whose colours excite a neuron of a clean network.

Liu et al. choose the neuron with the strongest connections to the next layer and change the pixels inside a mask, which
replace those of the picture, until it fires. ABL, I-BAU and Trap-and-Replace have such squares as files and add them. A
square is therefore found by replacing and stamped by adding. ABL adds modulo 256, so that bright pixels turn dark;
Trap-and-Replace clips, and so does this file.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from harness import Context
from harness.access import AttackAccess
from plugins.parts.found_trigger import FoundTrigger
from plugins.parts.neurons import trojan


class TrojanSquare(FoundTrigger):
    """Small added square that excites a neuron of a clean network (Liu et al. 2018)."""

    citation = "Liu et al.: Trojaning Attack on Neural Networks, NDSS 2018"

    size: Annotated[int, Field(ge=1)] = 3
    """side in pixels; 3 in ABL and Trap-and-Replace, 9 in I-BAU"""
    margin: Annotated[int, Field(ge=0)] = 4
    """pixels between the square and the lower right border; 4 in ABL and Trap-and-Replace, 2 in I-BAU"""
    neurons: Annotated[int, Field(ge=1)] = 1
    """neurons under the last layer that it excites, those with the largest sum of absolute weights out of them"""
    pictures: Annotated[int, Field(ge=1)] = 32
    """clean training images that it is made on"""
    steps: Annotated[int, Field(ge=0)] = 300
    """gradient steps"""
    step: Annotated[float, Field(gt=0)] = 0.1
    """mean size of the first step, pixels in [0,1]; sizes fall linearly"""

    def compatible(self, context: Context) -> str | None:
        """The square must fit."""
        if self.size + self.margin > min(context.task.height, context.task.width):
            return f"size {self.size} and margin {self.margin} do not fit into {context.task.height} pixels"
        return super().compatible(context)

    def find(self, access: AttackAccess, network: nn.Module) -> Tensor:
        """Colours under the square's mask."""
        mask = torch.zeros(1, access.task.height, access.task.width)
        bottom, right = access.task.height - self.margin, access.task.width - self.margin
        mask[:, bottom - self.size : bottom, right - self.size : right] = 1
        return trojan(
            access,
            network,
            mask,
            count=self.neurons,
            pictures=self.pictures,
            steps=self.steps,
            step=self.step,
        )
