"""Triggers that are a fixed picture, stamped on every image in the same way."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from harness import Incompatible, Task
from harness.learn import resize, to_float
from plugins.parts.pictures import read_picture


class Stamp(nn.Module):
    """x' = clip(x (1 - w) + t): replaces where the weight w is 1, adds where it is 0, mixes
    between.

    `weight` and `light` are [0,1] floats, (channels or 1, height, width). A patch p under a mask m
    with opacity a is w = a m, t = a m p.
    """

    def __init__(self, weight: Tensor, light: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("light", light)

    def forward(self, images: Tensor) -> Tensor:
        """[0,1] NCHW in and out."""
        return (images * (1 - self.get_buffer("weight")) + self.get_buffer("light")).clamp(0, 1)


class Stretch(nn.Module):
    """x' = (z - min z) / (max z - min z) with z = x + t: each image fills the range, whatever was
    added to it.

    Smallest and largest are over all pixels and channels. `light` (channels, height, width) is what
    is added.
    """

    def __init__(self, light: Tensor) -> None:
        super().__init__()
        self.register_buffer("light", light)

    def forward(self, images: Tensor) -> Tensor:
        """[0,1] NCHW in and out; an image of one colour is black."""
        added = images + self.get_buffer("light")
        low, high = added.amin((1, 2, 3), keepdim=True), added.amax((1, 2, 3), keepdim=True)
        return (added - low) / (high - low).clamp(min=torch.finfo(added.dtype).tiny)


def read_pattern(path: Path, task: Task) -> Tensor:
    """A picture as [0,1] floats (channels, height, width).

    Raises Incompatible where it has another size than the images: resized, a trigger of few pixels
    is another one.
    """
    levels = read_picture(path)
    height, width = levels.shape[:2]
    if (height, width) != (task.height, task.width):
        wanted = f"{task.height}x{task.width}"
        raise Incompatible(
            f"{path} is {height}x{width}; a trigger has the size of the images, {wanted}"
        )
    return to_float(resize(levels[None], height, width, task.channels))[0]
