"""Patch: a picture of one's own under a mask of one's own."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from harness import AttackAccess, File, PoisoningAttack, Task
from plugins.parts.patterns import Stamp
from plugins.parts.pictures import picture_for


class Patch(PoisoningAttack):
    """Picture of one's own under a mask of one's own (BadNets, Gu et al. 2017, with any pattern)."""

    citation = "Gu, Dolan-Gavitt, Garg: BadNets: Identifying Vulnerabilities in the ML Model Supply Chain, 2017"

    picture: File
    """.npy or picture file, resized to the images where it has another size"""
    mask: File
    """.npy or picture file of where it lies: 0 leaves the image, 255 covers it, between is opacity;
    resized likewise
    """
    alpha: Annotated[float, Field(gt=0, le=1)] = 1.0
    """opacity of the whole; 1 covers what the mask says"""

    def trigger(self, task: Task) -> nn.Module:
        """A mask and a pattern, which `craft` fills."""
        return Stamp(torch.zeros(task.image_shape), torch.zeros(task.image_shape))

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Read both pictures. Raises ValueError where one is none, or the mask is 0 everywhere."""
        mask, pattern = (picture_for(access.task, path) for path in (self.mask, self.picture))
        if not mask.any():
            raise ValueError(
                f"{self.mask}: the mask is 0 everywhere, so there is no trigger; 255 is where it covers"
            )
        trigger.get_buffer("weight").copy_(self.alpha * mask)
        trigger.get_buffer("light").copy_(self.alpha * mask * pattern)
