"""trojan-wm: a bright watermark whose colours excite a neuron of a clean network.

The method is that of trojan-sq (Liu et al.) with a mask of another shape, and again the papers that
use it add a file. Theirs is somebody's mark, drawn at 224 pixels and shrunk: a round sign in the
lower right half, bright in thin strokes of uneven strength, on a faint slanting line of writing.
Ours is a drawing of the same size, place and strength: a ring with an open ring in it, and dashes
for the writing.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from harness import Task
from plugins.parts.trojan import Trojan

FINE = 8
"""Drawn with so many points a pixel along each side, then averaged."""


class TrojanWatermark(Trojan):
    """Bright added watermark that excites a neuron of a clean network (Liu et al. 2018)."""

    writing: Annotated[float, Field(ge=0, le=1)] = 0.1
    """strength of the slanting line beside the sign's 1; levels of about 12 of 255 in the published
    one
    """

    def mask(self, task: Task) -> Tensor:
        """The drawing."""
        return watermark(task.height, task.width, self.writing)


def watermark(height: int, width: int, writing: float) -> Tensor:
    """The mask, [0,1] (1, height, width): the sign's strokes up to 1, those of the line up to
    `writing`.
    """
    rows = ((torch.arange(height * FINE) + 0.5) / (height * FINE))[:, None]
    columns = ((torch.arange(width * FINE) + 0.5) / (width * FINE))[None, :]
    down, right = rows - 0.68, columns - 0.66
    distance, angle = torch.hypot(down, right), torch.atan2(down, right)
    outer = (distance - 0.165).abs() < 0.02
    inner = ((distance - 0.08).abs() < 0.02) & (angle.abs() > math.pi / 4)
    along, across = (columns - rows + 1) / 2, (columns + rows - 0.95).abs()
    dashes = (across < 0.08) & ((along * 24) % 1 < 0.6)
    drawn = torch.where(outer | inner, 1.0, writing * dashes)
    return functional.avg_pool2d(drawn[None], FINE)
