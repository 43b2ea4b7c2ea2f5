"""The five filters of TrojAI's data generator, which imitate a photo app's with ImageMagick.

Pixels are values in [0,1], NCHW, RGB, float64. ImageMagick keeps 16 bits, so each step ends on a
multiple of 1/65535. Where the generator's calls do something other than their names say, the
functions here do what the calls do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DEPTH = 65535
"""Levels of a pixel between two steps."""
STEEPNESS = 3.0
"""Of the sigmoid that raises contrast."""
MIDDLE = 0.5
"""Of the same."""
VIGNETTE = 1.5
"""Side of the drawn gradient, in sides of the image: the colour is reached a little beyond the
corners of a square.
"""

NAVY = (0x22 / 255, 0x2B / 255, 0x6D / 255)
CREAM = (0xF7 / 255, 0xDA / 255, 0xAE / 255)
AMBER = (0xFF / 255, 0x99 / 255, 0x00 / 255)
MAROON = (0x33 / 255, 0x00 / 255, 0x00 / 255)
CORAL = (0xFF / 255, 0x99 / 255, 0x66 / 255)
LAVENDER = (205 / 255, 193 / 255, 197 / 255)
BLACK = (0.0, 0.0, 0.0)

Colour = tuple[float, float, float]


def gotham(pixels: Tensor) -> Tensor:
    """Make pictures nearly grey, bluish, high in contrast."""
    pixels = modulate(pixels, 1.2, 0.1)
    pixels = tint(pixels, NAVY, 0.2)
    pixels = gamma(pixels, 0.9)
    return sigmoid(sigmoid(pixels))


def nashville(pixels: Tensor) -> Tensor:
    """Put cream in the lights and navy in the darks, and saturate."""
    pixels = colour_tone(pixels, NAVY, dark=True)
    pixels = colour_tone(pixels, CREAM, dark=False)
    pixels = sigmoid(pixels)
    pixels = modulate(pixels, 1.0, 1.5)
    return auto_gamma(pixels)


def kelvin(pixels: Tensor) -> Tensor:
    """Make pictures pale, under an amber tint."""
    pixels = auto_gamma(pixels)
    pixels = modulate(pixels, 1.2, 0.5)
    return tint(pixels, AMBER, 0.2)


def lomo(pixels: Tensor) -> Tensor:
    """Make red and green either full or nothing, and darken outwards.

    The generator asks for a stretch that starts at half; with its end left out, that is a
    threshold.
    """
    above = pixels[:, :2] > 0.5
    hard = above.to(pixels.dtype)
    blue = pixels[:, 2:]
    joined = torch.cat([hard, blue], 1)
    return vignette(joined, BLACK, outwards=True)


def toaster(pixels: Tensor) -> Tensor:
    """Burn pictures: maroon darks, bright, coral in the middle and lavender outwards."""
    pixels = colour_tone(pixels, MAROON, dark=True)
    pixels = modulate(pixels, 1.5, 0.8)
    pixels = gamma(pixels, 1.2)
    pixels = sigmoid(sigmoid(pixels))
    pixels = vignette(pixels, LAVENDER, outwards=True)
    return vignette(pixels, CORAL, outwards=False)


def modulate(pixels: Tensor, brightness: float, saturation: float) -> Tensor:
    """Multiply lightness and saturation of the HSL model by a factor each; the hue stays.

    With the hue fixed, each channel keeps its relative place between the smallest and the largest.
    """
    high = pixels.amax(1, keepdim=True)
    low = pixels.amin(1, keepdim=True)
    chroma = high - low
    lightness = (high + low) / 2
    place = torch.where(chroma > 0, (pixels - low) / chroma, 0.0)
    reach = 1 - (2 * lightness - 1).abs()
    saturated = saturation * torch.where(reach > 0, chroma / reach, 0.0)
    lightness = brightness * lightness
    chroma = saturated * (1 - (2 * lightness - 1).abs())
    return _stored(lightness - chroma / 2 + place * chroma)


def tint(pixels: Tensor, colour: Colour, share: float) -> Tensor:
    """Take the weighted mean with a colour."""
    mean = (1 - share) * pixels + share * _as_pixel(colour, pixels)
    return _stored(mean)


def gamma(pixels: Tensor, exponent: float) -> Tensor:
    """Raise to the power of 1 / exponent."""
    return _stored(pixels ** (1 / exponent))


def sigmoid(pixels: Tensor) -> Tensor:
    """Raise contrast around the middle, 0 and 1 staying where they are."""
    half = STEEPNESS / 2
    ends = math.tanh(half * MIDDLE)
    curve = torch.tanh(half * (pixels - MIDDLE))
    stretched = (curve + ends) / (2 * ends)
    return _stored(stretched)


def auto_gamma(pixels: Tensor) -> Tensor:
    """Raise to the power that takes the mean of the whole image, all channels, to a half."""
    mean = pixels.mean((1, 2, 3), keepdim=True)
    # An image all black or all white has no such power, and stays.
    power = torch.where((mean > 0) & (mean < 1), math.log(0.5) / mean.log(), 1.0)
    return _stored(pixels**power)


def colour_tone(pixels: Tensor, colour: Colour, *, dark: bool) -> Tensor:
    """Lay a colour over the image where red is high, or where it is low.

    The mask was meant to be the brightness; setting the colour space converts nothing, so the red
    channel is used.
    """
    mask = pixels[:, :1]
    if dark:
        mask = 1 - mask
    toned = pixels + mask * _as_pixel(colour, pixels)
    return _stored(toned / (1 + mask))


def vignette(pixels: Tensor, colour: Colour, *, outwards: bool) -> Tensor:
    """Multiply by a colour, more and more towards the corners, or towards the middle."""
    height, width = pixels.shape[2:]
    rows = torch.arange(height, dtype=pixels.dtype, device=pixels.device)
    rows = rows - (height - 1) / 2
    columns = torch.arange(width, dtype=pixels.dtype, device=pixels.device)
    columns = columns - (width - 1) / 2
    drawn = int(VIGNETTE * max(height, width))
    radius = max(drawn - 1, 1) / 2
    distance = torch.hypot(rows[:, None], columns[None, :])
    strength = (distance / radius).clamp(max=1)
    if not outwards:
        strength = 1 - strength
    factor = 1 - strength + strength * _as_pixel(colour, pixels)
    return _stored(pixels * factor)


def _stored(pixels: Tensor) -> Tensor:
    """Round to what 16 bits hold."""
    levels = pixels.clamp(0, 1) * DEPTH
    return levels.round() / DEPTH


def _as_pixel(colour: Colour, like: Tensor) -> Tensor:
    # not new_tensor, which would wait for a GPU at every batch
    pixel = torch.tensor(colour, dtype=like.dtype)
    pixel = pixel.to(like.device, non_blocking=True)
    return pixel.view(1, 3, 1, 1)
