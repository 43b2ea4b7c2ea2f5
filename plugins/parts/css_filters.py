"""Three filters of CSSgram, which imitate a photo app's in style sheets, as pilgram 2 computes them
on bytes.

Pixels are whole grey levels 0..255, NCHW, RGB, float64. Every step ends on whole levels; whether it
rounds or drops the fraction is Pillow's habit in that operation.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

PEACH, PEACH_ALPHA = (247.0, 176.0, 153.0), 143
"""Alpha 0.56, in 255ths."""
BLUE, BLUE_ALPHA = (0.0, 70.0, 150.0), 102
"""Alpha 0.4, in 255ths."""
PLUM, OCHRE = (56.0, 44.0, 52.0), (183.0, 125.0, 33.0)
BROWN, PURPLE = (128.0, 78.0, 15.0), (59.0, 0.0, 59.0)
GRADIENT = 256
"""Side of Pillow's ready-made radial gradient, which is shrunk to the image."""


def nashville(levels: Tensor) -> Tensor:
    """Peach at most, blue at least, a little sepia, more contrast, light and colour."""
    levels = _over(levels, levels.minimum(_as_pixel(PEACH, levels)), PEACH_ALPHA)
    levels = _over(levels, levels.maximum(_as_pixel(BLUE, levels)), BLUE_ALPHA)
    levels = _mixed(levels, SEPIA, 0.8)
    return _mixed(brightness(contrast(levels, 1.2), 1.05), GREY, 1.2)


def kelvin(levels: Tensor) -> Tensor:
    """Dodged with plum, then overlaid on ochre."""
    dodged = (levels / (255 - _as_pixel(PLUM, levels)) * 255).trunc().clamp(0, 255)
    ochre = _as_pixel(OCHRE, levels)
    multiplied = _product(ochre, (2 * dodged).clamp(max=255))
    return torch.where(dodged < 128, multiplied, screen(ochre, (2 * dodged - 255).clamp(min=0)))


def toaster(levels: Tensor) -> Tensor:
    """Screened with a gradient from brown in the middle to purple, contrast up, light down.

    The gradient is a circle on square images; on others it is stretched.
    """
    mask = radial(*levels.shape[2:]).to(levels, non_blocking=True)
    mixed = _as_pixel(BROWN, levels) * mask + _as_pixel(PURPLE, levels) * (255 - mask) + 128
    gradient = (((mixed / 256).floor() + mixed) / 256).floor()
    return brightness(contrast(screen(levels, gradient), 1.5), 0.9)


SEPIA = ((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131))
GREY = ((0.213, 0.715, 0.072),) * 3


def contrast(levels: Tensor, factor: float) -> Tensor:
    """Away from the middle of the range."""
    return (levels * factor - 127.5 * factor + 127.5).round().clamp(0, 255)


def brightness(levels: Tensor, factor: float) -> Tensor:
    """A multiple."""
    return (levels * factor).round().clamp(0, 255)


def screen(first: Tensor, second: Tensor) -> Tensor:
    """The product of what is missing to white."""
    return 255 - _product(255 - first, 255 - second)


def _over(under: Tensor, above: Tensor, alpha: int) -> Tensor:
    """Transparent layers are two products, each of which drops its fraction."""
    full = torch.full_like(under, alpha)
    return _product(full, above) + _product(255 - full, under)


def _mixed(levels: Tensor, matrix: tuple[tuple[float, ...], ...], colour: float) -> Tensor:
    """The matrix on the channels, moved towards the identity (or beyond) by `colour`; halves go up."""
    toned = torch.tensor(matrix, dtype=levels.dtype).to(levels.device, non_blocking=True)
    weights = (1 - colour) * toned + colour * torch.eye(3, dtype=levels.dtype, device=levels.device)
    return (torch.einsum("oc,nchw->nohw", weights, levels) + 0.5).floor().clamp(0, 255)


def _product(first: Tensor, second: Tensor) -> Tensor:
    return (first * second / 255).trunc()


@cache
def radial(height: int, width: int) -> Tensor:
    """Pillow's radial gradient, 255 in the middle and 0 in the corners, shrunk by columns and then
    by rows.
    """
    line = torch.arange(GRADIENT, dtype=torch.float64) - GRADIENT / 2
    distance = (2 * (line[:, None] ** 2 + line[None, :] ** 2)).sqrt().trunc()
    full = 255 - distance.clamp(max=255)
    columns = _whole(full @ _shrinking(width).T)
    return _whole(_shrinking(height) @ columns)


def _shrinking(size: int) -> Tensor:
    """Weights (size, GRADIENT) of a row's cubic resampling, the kernel as wide as the reduction
    asks.
    """
    scale = GRADIENT / size
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    places = torch.arange(GRADIENT, dtype=torch.float64) + 0.5
    away = ((places[None, :] - centres[:, None]) / max(scale, 1.0)).abs()
    near = (1.5 * away - 2.5) * away**2 + 1
    far = ((2.5 - 0.5 * away) * away - 4) * away + 2
    weights = torch.where(away < 1, near, torch.where(away < 2, far, 0.0))
    return weights / weights.sum(1, keepdim=True)


def _whole(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)


def _as_pixel(colour: tuple[float, float, float], like: Tensor) -> Tensor:
    # not new_tensor, which would wait for a GPU at every batch
    return (
        torch.tensor(colour, dtype=like.dtype).to(like.device, non_blocking=True).view(1, 3, 1, 1)
    )
