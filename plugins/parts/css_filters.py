"""Three filters of CSSgram, which imitate a photo app's in style sheets.

They are as pilgram 2 computes them on bytes. Pixels are whole grey levels 0..255, NCHW, RGB,
float64. Every step ends on whole levels; some of Pillow's operations round and others drop the
fraction, and each of ours does as its model.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

PEACH = (247.0, 176.0, 153.0)
PEACH_ALPHA = 143
"""Alpha 0.56, in 255ths."""
BLUE = (0.0, 70.0, 150.0)
BLUE_ALPHA = 102
"""Alpha 0.4, in 255ths."""
PLUM = (56.0, 44.0, 52.0)
OCHRE = (183.0, 125.0, 33.0)
BROWN = (128.0, 78.0, 15.0)
PURPLE = (59.0, 0.0, 59.0)
SEPIA = ((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131))
GREY = ((0.213, 0.715, 0.072),) * 3
GRADIENT = 256
"""Side of Pillow's ready-made radial gradient, which is shrunk to the image."""


def nashville(levels: Tensor) -> Tensor:
    """Apply peach at most, blue at least, a little sepia, more contrast, light and colour."""
    peach = levels.minimum(_as_pixel(PEACH, levels))
    levels = _over(levels, peach, PEACH_ALPHA)
    blue = levels.maximum(_as_pixel(BLUE, levels))
    levels = _over(levels, blue, BLUE_ALPHA)
    levels = _mixed(levels, SEPIA, 0.8)
    levels = contrast(levels, 1.2)
    levels = brightness(levels, 1.05)
    return _mixed(levels, GREY, 1.2)


def kelvin(levels: Tensor) -> Tensor:
    """Dodge with plum, then overlay on ochre."""
    quotient = levels / (255 - _as_pixel(PLUM, levels))
    dodged = (quotient * 255).trunc().clamp(0, 255)
    ochre = _as_pixel(OCHRE, levels)
    doubled = (2 * dodged).clamp(max=255)
    multiplied = _product(ochre, doubled)
    excess = (2 * dodged - 255).clamp(min=0)
    screened = screen(ochre, excess)
    return torch.where(dodged < 128, multiplied, screened)


def toaster(levels: Tensor) -> Tensor:
    """Screen with a gradient from brown in the middle to purple, contrast up, light down.

    The gradient is a circle on square images; on others it is stretched.
    """
    height, width = levels.shape[2:]
    mask = radial(height, width).to(levels, non_blocking=True)
    brown = _as_pixel(BROWN, levels)
    purple = _as_pixel(PURPLE, levels)
    mixed = brown * mask + purple * (255 - mask) + 128
    # Pillow's division by 255, with shifts
    gradient = ((mixed / 256).floor() + mixed) / 256
    screened = screen(levels, gradient.floor())
    contrasted = contrast(screened, 1.5)
    return brightness(contrasted, 0.9)


def contrast(levels: Tensor, factor: float) -> Tensor:
    """Move away from the middle of the range."""
    spread = levels * factor - 127.5 * factor + 127.5
    return spread.round().clamp(0, 255)


def brightness(levels: Tensor, factor: float) -> Tensor:
    """Multiply by a factor."""
    scaled = levels * factor
    return scaled.round().clamp(0, 255)


def screen(first: Tensor, second: Tensor) -> Tensor:
    """Multiply what is missing to white."""
    return 255 - _product(255 - first, 255 - second)


def _over(under: Tensor, above: Tensor, alpha: int) -> Tensor:
    """Lay a transparent layer over another: two products, each of which drops its fraction."""
    full = torch.full_like(under, alpha)
    upper = _product(full, above)
    return upper + _product(255 - full, under)


def _mixed(levels: Tensor, matrix: tuple[tuple[float, ...], ...], colour: float) -> Tensor:
    """Apply a matrix to the channels, moved towards the identity (or beyond) by `colour`.

    Halves are rounded up.
    """
    toned = torch.tensor(matrix, dtype=levels.dtype)
    toned = toned.to(levels.device, non_blocking=True)
    identity = torch.eye(3, dtype=levels.dtype, device=levels.device)
    weights = (1 - colour) * toned + colour * identity
    mixed = torch.einsum("oc,nchw->nohw", weights, levels)
    return _whole(mixed)


def _product(first: Tensor, second: Tensor) -> Tensor:
    product = first * second / 255
    return product.trunc()


@cache
def radial(height: int, width: int) -> Tensor:
    """Return Pillow's radial gradient, 255 in the middle and 0 in the corners.

    It is shrunk by columns and then by rows.
    """
    line = torch.arange(GRADIENT, dtype=torch.float64) - GRADIENT / 2
    squared = line[:, None] ** 2 + line[None, :] ** 2
    distance = (2 * squared).sqrt().trunc()
    full = 255 - distance.clamp(max=255)
    narrow = _whole(full @ _shrinking(width).T)
    return _whole(_shrinking(height) @ narrow)


def _shrinking(size: int) -> Tensor:
    """Return weights (size, GRADIENT) of a row's cubic resampling.

    The kernel is as wide as the reduction asks.
    """
    scale = GRADIENT / size
    centres = torch.arange(size, dtype=torch.float64) + 0.5
    centres = centres * scale
    places = torch.arange(GRADIENT, dtype=torch.float64) + 0.5
    offsets = places[None, :] - centres[:, None]
    away = (offsets / max(scale, 1.0)).abs()
    near = (1.5 * away - 2.5) * away**2 + 1
    far = ((2.5 - 0.5 * away) * away - 4) * away + 2
    outer = torch.where(away < 2, far, 0.0)
    weights = torch.where(away < 1, near, outer)
    return weights / weights.sum(1, keepdim=True)


def _whole(values: Tensor) -> Tensor:
    """Round to whole levels, halves up."""
    rounded = (values + 0.5).floor()
    return rounded.clamp(0, 255)


def _as_pixel(colour: tuple[float, float, float], like: Tensor) -> Tensor:
    # not new_tensor, which would wait for a GPU at every batch
    pixel = torch.tensor(colour, dtype=like.dtype)
    pixel = pixel.to(like.device, non_blocking=True)
    return pixel.view(1, 3, 1, 1)
