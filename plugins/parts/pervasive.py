"""The formulae of DECK's pervasive backdoor: one transformation of all pictures, in feature space.

Tao et al., NDSS 2024, section IV-B. A picture x is normalised, encoded, transformed region by
region, and decoded:

    x^ = f^-1( Psi( f( Gamma(x) ) ) )

Pictures are grey levels 0..255 here. Lanes are backdoors that are optimised side by side; a leading
axis of parameters counts them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from plugins.parts.similarity import similarity
from plugins.parts.vgg_block import LEVELS

EPSILON = 1e-5
"""Added to deviations, so that channels of one grey level can be divided by theirs."""
UNIT = 1e-3
"""What mean squared differences of features are multiplied with: the weight that they have in the
paper's loss, and the unit in which its distances have the size that it prints.
"""
NEIGHBOURS = 3
"""Side of the square that the loss's smoothing averages over."""


def moments(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each channel of each picture (n, c, h, w), both (n, c)."""
    return levels.mean((2, 3)), levels.std((2, 3), correction=0)


def standardised(levels: Tensor) -> Tensor:
    """Bring each channel of each picture (n, c, h, w) to mean 0 and deviation 1."""
    mean, deviation = moments(levels)
    return (levels - mean[..., None, None]) / (deviation[..., None, None] + EPSILON)


def gamma(standard: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Apply Gamma (Eq. 1) to pictures that are `standardised`.

    `standard` is (lanes, b, c, h, w), `mean` and `deviation` are (lanes, c).
    """
    return standard * deviation[:, None, :, None, None] + mean[:, None, :, None, None]


def psi(features: Tensor, kernels: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply Psi (Eq. 2): each region of a map is convolved with kernels of its own.

    `features` are (lanes, b, k, h, w), `kernels` (lanes, z, z, k, k, m, m), `bias` (lanes, z, z,
    k). Zeros are around each region, not around the map alone. Raises ValueError where the map does
    not fall into z x z equal regions.
    """
    lanes, count, width, height, breadth = features.shape
    side = kernels.shape[1]
    size = kernels.shape[-1]
    if height % side or breadth % side:
        raise ValueError(
            f"features of {height} x {breadth} do not fall into {side} x {side} regions"
        )
    region = (height // side, breadth // side)
    cut = features.reshape(lanes, count, width, side, region[0], side, region[1])
    # one group of channels for each region of each lane
    grouped = cut.permute(1, 0, 3, 5, 2, 4, 6).reshape(count, -1, *region)
    made = functional.conv2d(
        grouped,
        kernels.reshape(-1, width, size, size),
        None if bias is None else bias.flatten(),
        padding=size // 2,
        groups=lanes * side * side,
    )
    apart = made.view(count, lanes, side, side, width, *region)
    return apart.permute(1, 0, 4, 2, 5, 3, 6).reshape(features.shape)


def identity(side: int, width: int, size: int) -> Tensor:
    """Return the kernels (z, z, k, k, m, m) with which Psi changes nothing."""
    kernels = torch.zeros(side, side, width, width, size, size)
    middle = size // 2
    kernels[..., middle, middle] = torch.eye(width)
    return kernels


def content(features: Tensor, original: Tensor) -> Tensor:
    """Return the mean squared difference (Eq. 8) of (lanes, b, k, h, w), by lane."""
    return (features - original).square().flatten(1).mean(1)


def unlike(levels: Tensor, original: Tensor) -> Tensor:
    """Return 1 - SSIM of pictures (lanes, b, c, h, w), by lane.

    The paper's Eq. 7 has SSIM itself, which would be smallest for the most different pictures.
    """
    lanes = len(levels)
    alike = similarity(levels.flatten(0, 1), original.flatten(0, 1), LEVELS)
    return 1 - alike.view(lanes, -1).mean(1)


def roughness(levels: Tensor) -> Tensor:
    """Return the mean squared distance of pixels from the mean around them (Eq. 10), by lane.

    At the border of a picture fewer pixels are around.
    """
    flat = levels.flatten(0, 1)
    around = functional.avg_pool2d(
        flat, NEIGHBOURS, stride=1, padding=NEIGHBOURS // 2, count_include_pad=False
    )
    return (flat - around).square().mean((1, 2, 3)).view(len(levels), -1).mean(1)


def unusual(mean: Tensor, deviation: Tensor, usual: tuple[Tensor, Tensor]) -> Tensor:
    """Return L_norm (Eq. 9), by lane: how far Gamma's statistics are from the `usual` ones.

    All are (lanes, c); the usual ones are means over the generation set.
    """
    usual_mean, usual_deviation = usual
    return (mean - usual_mean).abs().mean(1) + (deviation - usual_deviation).abs().mean(1)
