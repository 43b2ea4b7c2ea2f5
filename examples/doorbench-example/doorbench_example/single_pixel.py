"""The smallest trigger: one bright pixel (Gu et al. 2017, section 3)."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from harness import Context, PoisoningAttack, Task


class SinglePixel(PoisoningAttack):
    """One pixel near the corner (Gu et al. 2017)."""

    # Target label, poison rate, label map and so on are parameters of PoisoningAttack already.
    row: Annotated[int, Field(ge=0)] = 1
    """rows from the bottom"""
    column: Annotated[int, Field(ge=0)] = 1
    """columns from the right"""
    value: Annotated[float, Field(ge=0, le=1)] = 1.0
    """brightness, 0 black to 1 white"""

    def compatible(self, context: Context) -> str | None:
        """Refuse images that the pixel lies outside of."""
        height = context.task.height
        width = context.task.width
        if self.row >= height or self.column >= width:
            return f"row {self.row}, column {self.column} lies outside {height}x{width} pixels"
        return super().compatible(context)

    def trigger(self, task: Task) -> nn.Module:
        """Return the module that stamps images, at training and at test time."""
        mask = torch.zeros(1, task.height, task.width)
        mask[0, -1 - self.row, -1 - self.column] = 1
        return Pixel(mask, self.value)


class Pixel(nn.Module):
    """Bright pixels under a mask. Buffers are saved with the victim."""

    def __init__(self, mask: Tensor, value: float) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.register_buffer("light", mask * value)

    def forward(self, images: Tensor) -> Tensor:
        """Stamp images: [0,1] NCHW in and out."""
        darkened = images * (1 - self.get_buffer("mask"))
        return darkened + self.get_buffer("light")
