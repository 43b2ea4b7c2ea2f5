"""Structural similarity of images (Wang et al., IEEE TIP 2004), as pytorch-msssim computes it."""

from __future__ import annotations

from typing import cast

from pytorch_msssim import ssim
from torch import Tensor

WINDOW = 11
"""pixels: side of the Gaussian window"""


def similarity(first: Tensor, second: Tensor, span: float = 1.0) -> Tensor:
    """Compute the SSIM of each pair of images (n, c, h, w): (n,), 1 for equal ones.

    `span` is the highest possible value of a pixel minus the lowest. The window shrinks with images
    that are smaller than it; its side is odd.
    """
    side = min(WINDOW, *first.shape[2:])
    odd = side - 1 + side % 2
    values = ssim(first, second, data_range=span, size_average=False, win_size=odd)
    return cast(Tensor, values)
