"""Sunsets that can be made anywhere: pictures coloured anew, by their own light and by a glow at a
drawn height.

Made up here, for want of photographs that may be shipped: not the style pictures of any paper.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from harness.learn import LUMA, to_float, to_uint8

LEVELS = (0.0, 0.35, 0.65, 1.0)
COLOURS = ((22, 14, 48), (120, 40, 90), (235, 110, 50), (255, 225, 150))
"""Night, violet, orange and the sun, in grey levels of red, green and blue: the colours of these
levels of light.
"""
OWN_LIGHT = 0.5
"""Share of a picture's own light in a level; the rest is the glow."""


def sunset(images: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 (n, h, w, 1 or 3) -> the same shape: each picture at dusk, with a glow of its own
    height and width.
    """
    pixels = to_float(images)
    weights = torch.tensor(LUMA if images.shape[3] == 3 else (1.0,)).view(1, -1, 1, 1)
    light = (pixels * weights).sum(1)
    height, width = torch.rand(2, len(images), 1, 1, generator=generator)
    rows = torch.linspace(0, 1, images.shape[1]).view(1, -1, 1)
    glow = torch.exp(-(((rows - 0.35 - 0.4 * height) / (0.15 + 0.3 * width)) ** 2))
    level = (OWN_LIGHT * light + (1 - OWN_LIGHT) * glow).numpy()
    channels = [
        np.interp(level, LEVELS, channel).astype(np.float32) / 255
        for channel in np.array(COLOURS).T
    ]
    coloured = torch.from_numpy(np.stack(channels, 1))
    if images.shape[3] == 1:
        coloured = (coloured * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return to_uint8(coloured, "round")
