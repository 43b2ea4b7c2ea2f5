"""Patch: the user's own picture under the user's own mask."""

from __future__ import annotations

import torch
from torch import nn

from harness import AttackAccess, File, PoisoningAttack, Task
from plugins.parts.patterns import Stamp
from plugins.parts.pictures import picture_for
from plugins.parts.ranges import Share


class Patch(PoisoningAttack):
    """Your own picture under your own mask (BadNets, Gu et al. 2017, with any pattern)."""

    citation = (
        "Gu, Dolan-Gavitt, Garg: BadNets: Identifying Vulnerabilities in the ML Model Supply "
        "Chain, 2017"
    )

    picture: File
    """.npy or picture file, resized to the images where it has another size"""
    mask: File
    """.npy or picture file of its place: 0 leaves the image, 255 covers it, between is opacity;
    resized likewise
    """
    alpha: Share = 1.0
    """opacity of the whole, on top of the mask's"""

    def trigger(self, task: Task) -> nn.Module:
        """Return a mask and a pattern, which `craft` fills."""
        weight = torch.zeros(task.image_shape)
        light = torch.zeros(task.image_shape)
        return Stamp(weight, light)

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Read both pictures. Raise ValueError where one is none, or the mask is 0 everywhere."""
        mask = picture_for(access.task, self.mask)
        pattern = picture_for(access.task, self.picture)
        if not mask.any():
            raise ValueError(
                f"{self.mask}: the mask is 0 everywhere, so there is no trigger; "
                "255 is where it covers"
            )
        weight = self.alpha * mask
        trigger.get_buffer("weight").copy_(weight)
        trigger.get_buffer("light").copy_(weight * pattern)
