"""Triggers that are a fixed picture, stamped on every image in the same way."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from harness import Incompatible, Task
from harness.learn import resize, to_float
from plugins.parts.pictures import read_picture


class Stamp(nn.Module):
    """x' = clip(x (1 - w) + t): replaces where the weight w is 1, adds where it is 0.

    Between it mixes. `weight` and `light` are [0,1] floats, (channels or 1, height, width). A patch
    p under a mask m with opacity a is w = a m, t = a m p.
    """

    def __init__(self, weight: Tensor, light: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("light", light)

    def forward(self, images: Tensor) -> Tensor:
        """Stamp [0,1] NCHW, in and out."""
        dimmed = images * (1 - self.get_buffer("weight"))
        lit = dimmed + self.get_buffer("light")
        return lit.clamp(0, 1)


class Stretch(nn.Module):
    """x' = (z - min z) / (max z - min z) with z = x + t, so that each image fills the range.

    Smallest and largest are over all pixels and channels. `light` t is (channels, height, width).
    """

    def __init__(self, light: Tensor) -> None:
        super().__init__()
        self.register_buffer("light", light)

    def forward(self, images: Tensor) -> Tensor:
        """Stamp [0,1] NCHW, in and out; an image of one colour becomes black."""
        added = images + self.get_buffer("light")
        low = added.amin((1, 2, 3), keepdim=True)
        high = added.amax((1, 2, 3), keepdim=True)
        smallest = torch.finfo(added.dtype).tiny
        return (added - low) / (high - low).clamp(min=smallest)


def read_pattern(path: Path, task: Task) -> Tensor:
    """Read a picture as [0,1] floats (channels, height, width).

    Raises Incompatible where it is not of the images' size: resized, a trigger of few pixels is
    another one.
    """
    levels = read_picture(path)
    height, width = levels.shape[:2]
    if (height, width) != (task.height, task.width):
        expected = f"{task.height}x{task.width}"
        raise Incompatible(
            f"{path} is {height}x{width}; a trigger has the size of the images, {expected}"
        )
    batch = resize(levels[None], height, width, task.channels)
    return to_float(batch)[0]
