"""Sunsets that can be made anywhere: pictures coloured by their own light and by a glow.

Made up here, for want of photographs that may be shipped: not the style pictures of any paper.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from harness.learn import LUMA, to_float, to_uint8

LEVELS = (0.0, 0.35, 0.65, 1.0)
"""Levels of light whose colours are given; between them colours are interpolated."""
COLOURS = ((22, 14, 48), (120, 40, 90), (235, 110, 50), (255, 225, 150))
"""Their colours in grey levels of red, green and blue: night, violet, orange and the sun."""
OWN_LIGHT = 0.5
"""Share of a picture's own light in a level; the rest is the glow."""


def sunset(images: Tensor, generator: torch.Generator) -> Tensor:
    """Put pictures at dusk: uint8 (n, h, w, 1 or 3) to the same shape.

    Each has a glow of its own height and width.
    """
    coloured = images.shape[3] == 3
    luma = torch.tensor(LUMA).view(1, 3, 1, 1)
    weights = torch.ones(1, 1, 1, 1)
    if coloured:
        weights = luma
    light = (to_float(images) * weights).sum(1)
    height, width = torch.rand(2, len(images), 1, 1, generator=generator)
    rows = torch.linspace(0, 1, images.shape[1]).view(1, -1, 1)
    offset = rows - 0.35 - 0.4 * height
    spread = 0.15 + 0.3 * width
    glow = torch.exp(-((offset / spread) ** 2))
    level = OWN_LIGHT * light + (1 - OWN_LIGHT) * glow
    channels = []
    for colour in np.array(COLOURS).T:
        channel = np.interp(level.numpy(), LEVELS, colour)
        channels.append(channel.astype(np.float32) / 255)
    dusk = torch.from_numpy(np.stack(channels, 1))
    if not coloured:
        dusk = (dusk * luma).sum(1, keepdim=True)
    return to_uint8(dusk, "round")
