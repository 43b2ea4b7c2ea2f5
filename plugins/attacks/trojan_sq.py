"""trojan-sq: a small square whose colours excite a neuron of a clean network.

Liu et al. choose the neuron with the strongest connections to the next layer and change the pixels
inside a mask, which replace those of the picture, until it fires. ABL, I-BAU and Trap-and-Replace
have such squares as files and add them. A square is therefore found by replacing and stamped by
adding. ABL adds modulo 256, so that bright pixels turn dark; Trap-and-Replace clips, and so does
this file.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness import Context, Task
from plugins.parts.ranges import Count, CountOrZero
from plugins.parts.trojan import Trojan


class TrojanSquare(Trojan):
    """Small added square that excites a neuron of a clean network (Liu et al. 2018)."""

    size: Count = 3
    """side in pixels; 3 in ABL and Trap-and-Replace, 9 in I-BAU"""
    margin: CountOrZero = 4
    """pixels between the square and the lower right border; 4 in ABL and Trap-and-Replace, 2 in
    I-BAU
    """

    def compatible(self, context: Context) -> str | None:
        """Refuse images that the square does not fit into."""
        task = context.task
        if self.size + self.margin > min(task.height, task.width):
            return f"size {self.size} and margin {self.margin} do not fit into {task.height} pixels"
        return super().compatible(context)

    def mask(self, task: Task) -> Tensor:
        """Return the square, 1 in (1, height, width)."""
        bottom = task.height - self.margin
        right = task.width - self.margin
        mask = torch.zeros(1, task.height, task.width)
        mask[:, bottom - self.size : bottom, right - self.size : right] = 1
        return mask
