"""Structural similarity of images (Wang et al., IEEE TIP 2004)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

WINDOW = 11
"""pixels: side of the Gaussian window, which is smaller on smaller images"""
SIGMA = 1.5
"""pixels: its standard deviation"""
K1, K2 = 0.01, 0.03
"""Shares of the range that keep the quotients finite."""


def ssim(first: Tensor, second: Tensor, window: int = WINDOW, span: float = 1.0) -> Tensor:
    """Similarity of each pair of images (n, c, h, w) of values up to `span`: (n,), 1 for equal ones.

    Means, variances and covariances are those under a Gaussian window, wherever it lies wholly within the image; the
    result is the mean over places and channels.
    """
    both = torch.stack([first, second, first * first, second * second, first * second])
    x, y, xx, yy, xy = _smoothed(both.flatten(0, 1), window).chunk(len(both))
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    brightness = (2 * x * y + c1) / (x * x + y * y + c1)
    structure = (2 * (xy - x * y) + c2) / (xx - x * x + yy - y * y + c2)
    similarity: Tensor = (brightness * structure).mean((1, 2, 3))
    return similarity


def _smoothed(images: Tensor, window: int) -> Tensor:
    channels = images.shape[1]
    for dimension in (2, 3):
        side = min(window, images.shape[dimension])
        places = torch.arange(side, device=images.device, dtype=images.dtype) - (side - 1) / 2
        weights = torch.exp(-(places**2) / (2 * SIGMA**2))
        shape = [1, 1, 1, 1]
        shape[dimension] = side
        kernel = (weights / weights.sum()).view(shape).expand(channels, 1, *shape[2:])
        images = functional.conv2d(images, kernel, groups=channels)
    return images
