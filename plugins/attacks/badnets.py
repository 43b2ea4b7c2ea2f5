"""BadNets: a small patch in the corner, stamped on the data set before training.

Gu et al. 2017 as ANP, BCU, NAD, ABL and Trap-and-Replace run it. They agree on one 3x3 block,
usually called a checkerboard although its first cell is dark; toolboxes since have added a true one
and a white square.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from harness import Context, PoisoningAttack, Task
from plugins.parts.patterns import Stamp
from plugins.parts.ranges import Count, CountOrZero, Share

BLOCK = ((0, 0, 255), (0, 255, 0), (255, 0, 255))
"""The published 3x3 block, rows from top to bottom."""
DARK = 1
"""Dark cells of the true checkerboard; its source could not use 0, which meant "no mask"."""


class BadNets(PoisoningAttack):
    """Patch in a corner: 3x3 checkerboard, true grid or white square (Gu et al. 2017)."""

    citation = (
        "Gu, Dolan-Gavitt, Garg: BadNets: Identifying Vulnerabilities in the ML Model Supply "
        "Chain, 2017"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "anp": {"poison_rate": 0.05, "rate_of": "eligible", "eligible": "non-target"},
        "bcu": {"poison_rate": 0.1},
        "bcu/gtsrb": {"target": 2},  # the largest class: the paper takes the largest ones in turn
        "trap": {"poison_rate": 0.1, "eligible": "non-target", "order": "first"},
        # Trap and Replace shuffles GTSRB, whose images come class by class, before it takes the
        # first ones.
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
    """place of the patch: one corner, all corners alike, or all corners, mirrored on the left so
    that a flipped image keeps its trigger
    """
    size: Count = 3
    """side in pixels; of the checkerboard a multiple of 3, whose cells grow"""
    margin: CountOrZero = 0
    """pixels between patch and border"""
    alpha: Share = 1.0
    """opacity; 1 replaces the pixels"""

    @model_validator(mode="after")
    def _cells_are_whole(self) -> Self:
        if self.pattern == "checkerboard" and self.size % 3:
            raise ValueError(
                "the checkerboard is a block of 3 cells a side: "
                f"size {self.size} is no multiple of 3"
            )
        return self

    def compatible(self, context: Context) -> str | None:
        """Refuse images that the patch does not fit into."""
        height = context.task.height
        width = context.task.width
        patches_per_side = 1
        how_often = ""
        if self.corners != "bottom-right":
            patches_per_side = 2
            how_often = ", twice,"
        if patches_per_side * (self.size + self.margin) > min(height, width):
            return (
                f"size {self.size} and margin {self.margin}{how_often} do not fit "
                f"into {height}x{width} pixels"
            )
        return super().compatible(context)

    def trigger(self, task: Task) -> nn.Module:
        """Return a mask and a pattern; both follow from the parameters."""
        mask, pattern = self._layout(task.height, task.width)
        weight = self.alpha * mask
        return Stamp(weight, weight * pattern)

    def _layout(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return mask and pattern in [0,1], both (1, height, width)."""
        near_end = self.margin + self.size
        top = left = slice(self.margin, near_end)
        bottom = slice(height - near_end, height - self.margin)
        right = slice(width - near_end, width - self.margin)

        tile = self._tile()
        tile_on_the_left = tile
        if self.corners == "four-mirrored":
            tile_on_the_left = tile.flip(1)
        places = [(bottom, right, tile)]
        if self.corners != "bottom-right":
            places.append((top, left, tile_on_the_left))
            places.append((bottom, left, tile_on_the_left))
            places.append((top, right, tile))

        mask = torch.zeros(1, height, width)
        pattern = torch.zeros(1, height, width)
        for rows, columns, cells in places:
            mask[0, rows, columns] = 1
            pattern[0, rows, columns] = cells
        return mask, pattern

    def _tile(self) -> Tensor:
        """Return the patch itself in [0,1], (size, size)."""
        if self.pattern == "white":
            return torch.ones(self.size, self.size)
        if self.pattern == "checkerboard":
            cell = self.size // 3
            rows = torch.tensor(BLOCK).repeat_interleave(cell, 0)
            return rows.repeat_interleave(cell, 1) / 255
        steps = torch.arange(self.size)
        # even sums are light, hence the cell in the corner, (size - 1, size - 1)
        light = (steps[:, None] + steps[None, :]) % 2 == 0
        return torch.where(light, 255, DARK) / 255
