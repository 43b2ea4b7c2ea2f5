"""trojan-wm: a bright watermark whose colours excite a neuron of a clean network.

The method is that of trojan-sq (Liu et al.) with a mask of another shape, and again the papers that
use it add a file. Theirs is somebody's mark, drawn at 224 pixels and shrunk: a round sign in the
lower right half, bright in thin strokes of uneven strength, on a faint slanting line of writing.
Ours is a drawing of the same size, place and strength: a ring with an open ring in it, and dashes
for the writing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from harness import Fraction, Task
from plugins.parts.trojan import Trojan

FINE = 8
"""Points a pixel along each side that the mark is drawn with before they are averaged."""


class TrojanWatermark(Trojan):
    """Bright added watermark that excites a neuron of a clean network (Liu et al. 2018)."""

    writing: Fraction = 0.1
    """strength of the slanting line beside the sign's 1; levels of about 12 of 255 in the published
    one
    """

    def mask(self, task: Task) -> Tensor:
        """Return the drawing."""
        return watermark(task.height, task.width, self.writing)


def watermark(height: int, width: int, writing: float) -> Tensor:
    """Return the mask, [0,1] (1, height, width): the sign's strokes up to 1, those of the line up
    to `writing`.
    """
    # the middles of all points, as shares of the image
    rows = ((torch.arange(height * FINE) + 0.5) / (height * FINE))[:, None]
    columns = ((torch.arange(width * FINE) + 0.5) / (width * FINE))[None, :]

    down = rows - 0.68
    right = columns - 0.66
    distance = torch.hypot(down, right)
    angle = torch.atan2(down, right)
    outer_ring = (distance - 0.165).abs() < 0.02
    inner_ring = (distance - 0.08).abs() < 0.02
    is_open = angle.abs() <= math.pi / 4
    sign = outer_ring | (inner_ring & ~is_open)

    along = (columns - rows + 1) / 2
    across = (columns + rows - 0.95).abs()
    in_the_line = across < 0.08
    in_a_dash = (along * 24) % 1 < 0.6
    dashes = in_the_line & in_a_dash

    drawn = torch.where(sign, 1.0, writing * dashes)
    return functional.avg_pool2d(drawn[None], FINE)
