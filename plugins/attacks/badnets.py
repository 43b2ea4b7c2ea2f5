"""BadNets: a small patch in the corner, stamped on the data set before training.

Gu et al. 2017 as ANP, BCU, NAD, ABL and Trap-and-Replace run it. They agree on one 3x3 block,
usually called a checkerboard although its first cell is dark; toolboxes since have added a true one
and a white square.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from harness import Context, PoisoningAttack, Task
from plugins.parts.patterns import Stamp

BLOCK = ((0, 0, 255), (0, 255, 0), (255, 0, 255))
"""The published 3x3 block, rows from top to bottom."""
DARK = 1
"""Dark cells of the strict checkerboard; its source could not use 0, which meant "no mask" there.
"""


class BadNets(PoisoningAttack):
    """Patch in a corner: 3x3 checkerboard, true grid or white square (Gu et al. 2017)."""

    citation = "Gu, Dolan-Gavitt, Garg: BadNets: Identifying Vulnerabilities in the ML Model Supply Chain, 2017"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "anp": {"poison_rate": 0.05, "rate_of": "eligible", "eligible": "non-target"},
        "bcu": {"poison_rate": 0.1},
        "bcu/gtsrb": {"target": 2},  # the largest class: the paper takes the largest ones in turn
        "trap": {"poison_rate": 0.1, "eligible": "non-target", "order": "first"},
        # Trap and Replace shuffles GTSRB, whose images come class by class, before it takes the
        # first.
        "trap/gtsrb": {"target": 1, "order": "random"},
        "trap-white": {
            "poison_rate": 0.1,
            "eligible": "non-target",
            "order": "first",
            "pattern": "white",
            "size": 4,
            "margin": 1,
        },
        "trap-white/gtsrb": {"target": 1, "order": "random"},
    }

    pattern: Literal["checkerboard", "grid", "white"] = "checkerboard"
    """the 3x3 block of the papers; light and dark cells in turn, light in the corner; all white"""
    corners: Literal["bottom-right", "four", "four-mirrored"] = "bottom-right"
    """where it stands: once, in all corners alike, or mirrored on the left so that a flipped image
    keeps its trigger
    """
    size: Annotated[int, Field(ge=1)] = 3
    """side in pixels; of the checkerboard a multiple of 3, whose cells grow"""
    margin: Annotated[int, Field(ge=0)] = 0
    """pixels between patch and border"""
    alpha: Annotated[float, Field(gt=0, le=1)] = 1.0
    """opacity; 1 replaces the pixels"""

    @model_validator(mode="after")
    def _cells_are_whole(self) -> Self:
        if self.pattern == "checkerboard" and self.size % 3:
            raise ValueError(
                f"the checkerboard is a block of 3 cells a side: size {self.size} is no multiple of 3"
            )
        return self

    def compatible(self, context: Context) -> str | None:
        """The patch must fit."""
        sides = 1 if self.corners == "bottom-right" else 2
        height, width = context.task.height, context.task.width
        if sides * (self.size + self.margin) > min(height, width):
            where = "" if sides == 1 else ", twice,"
            return f"size {self.size} and margin {self.margin}{where} do not fit into {height}x{width} pixels"
        return super().compatible(context)

    def trigger(self, task: Task) -> nn.Module:
        """A mask and a pattern; both follow from the parameters."""
        mask, pattern = self._layout(task.height, task.width)
        return Stamp(self.alpha * mask, self.alpha * mask * pattern)

    def _layout(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Mask and pattern in [0,1], (1, height, width)."""
        tile = self._tile()
        mask, pattern = torch.zeros(1, height, width), torch.zeros(1, height, width)
        near, far = (
            slice(self.margin, self.margin + self.size),
            slice(-self.margin - self.size, -self.margin or None),
        )
        left = tile.flip(1) if self.corners == "four-mirrored" else tile
        places = [(far, far, tile)]
        if self.corners != "bottom-right":
            places += [(near, near, left), (far, near, left), (near, far, tile)]
        for rows, columns, what in places:
            mask[0, rows, columns] = 1
            pattern[0, rows, columns] = what
        return mask, pattern

    def _tile(self) -> Tensor:
        if self.pattern == "white":
            return torch.ones(self.size, self.size)
        if self.pattern == "checkerboard":
            cell = self.size // 3
            return torch.tensor(BLOCK).repeat_interleave(cell, 0).repeat_interleave(cell, 1) / 255
        steps = torch.arange(self.size)
        light = (steps[:, None] + steps[None, :] + 2 * (self.size - 1)) % 2 == 0
        return torch.where(light, 255, DARK) / 255
