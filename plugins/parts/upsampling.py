"""Four ways to undo a 2 x 2 max-pooling, which a decoder must choose among.

DECK (Tao et al. 2024), section IV-A and figure 9: the pooled value goes to the top left of its cell
and zeros (Dosovitskiy & Brox 2016) or draws from a Gaussian (DECK) to the other three places, or it
goes to all four (nearest), or to where the largest value was (stacked what-where autoencoders).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Upsampling = Literal["random", "zero", "nearest", "swwae"]


def spread(pooled: Tensor, others: Tensor) -> Tensor:
    """Put values (n, k, h, w) at the top left of each 2 x 2 cell of `others` (n, k, 2h, 2w)."""
    whole = others.clone()
    whole[:, :, ::2, ::2] = pooled
    return whole


def gaussian(shape: tuple[int, int, int, int], sigma: Tensor, generator: torch.Generator) -> Tensor:
    """Draw N(0, sigma^2) with a `sigma` (k,) for each channel of `shape` (n, k, 2h, 2w).

    The top left of each cell, which is not drawn, is 0. Drawn on the generator's device.
    """
    device = generator.device
    drawn = torch.randn(shape, generator=generator, device=device)
    drawn *= sigma.to(device).view(1, -1, 1, 1)
    count, channels, height, width = shape
    pooled = torch.zeros(count, channels, height // 2, width // 2, device=device)
    return spread(pooled, drawn)


def nearest(pooled: Tensor) -> Tensor:
    """Copy each value to its whole cell."""
    return functional.interpolate(pooled, scale_factor=2, mode="nearest")


def places_of(taken: Tensor) -> Tensor:
    """Return where in each cell of (n, k, 2h, 2w) the largest value is, for `back_in_place`."""
    _, places = functional.max_pool2d(taken, 2, return_indices=True)
    return places


def back_in_place(pooled: Tensor, places: Tensor) -> Tensor:
    """Put values where `places_of` says, zeros elsewhere."""
    return functional.max_unpool2d(pooled, places, [2, 2])
