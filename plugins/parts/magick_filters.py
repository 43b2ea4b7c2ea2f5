"""The five filters of TrojAI's data generator, which imitate a photo app's with ImageMagick.

Pixels are values in [0,1], NCHW, RGB, float64. ImageMagick keeps 16 bits, so each step ends on a
multiple of 1/65535. Where the generator's calls mean something else than their names say, this is
what they do, not what they are called.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DEPTH = 65535
"""Levels of a pixel between two steps."""
STEEPNESS, MIDDLE = 3.0, 0.5
"""Of the sigmoid that raises contrast."""
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
    """Nearly grey, bluish, high in contrast."""
    pixels = gamma(tint(modulate(pixels, 1.2, 0.1), NAVY, 0.2), 0.9)
    return sigmoid(sigmoid(pixels))


def nashville(pixels: Tensor) -> Tensor:
    """Cream in the lights, navy in the darks, saturated."""
    pixels = sigmoid(colour_tone(colour_tone(pixels, NAVY, dark=True), CREAM, dark=False))
    return auto_gamma(modulate(pixels, 1.0, 1.5))


def kelvin(pixels: Tensor) -> Tensor:
    """Pale, under an amber tint."""
    return tint(modulate(auto_gamma(pixels), 1.2, 0.5), AMBER, 0.2)


def lomo(pixels: Tensor) -> Tensor:
    """Red and green either full or nothing, darker outwards.

    The generator asks for a stretch that starts at half; with its end left out, that is a
    threshold.
    """
    hard = (pixels[:, :2] > 0.5).to(pixels.dtype)
    return vignette(torch.cat([hard, pixels[:, 2:]], 1), BLACK, outwards=True)


def toaster(pixels: Tensor) -> Tensor:
    """Burnt: maroon darks, bright, coral in the middle and lavender outwards."""
    pixels = gamma(modulate(colour_tone(pixels, MAROON, dark=True), 1.5, 0.8), 1.2)
    pixels = vignette(sigmoid(sigmoid(pixels)), LAVENDER, outwards=True)
    return vignette(pixels, CORAL, outwards=False)


def modulate(pixels: Tensor, brightness: float, saturation: float) -> Tensor:
    """Lightness and saturation of the HSL model times a factor each; the hue stays.

    With the hue fixed, each channel keeps its relative place between the smallest and the largest.
    """
    high, low = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    chroma, lightness = high - low, (high + low) / 2
    place = torch.where(chroma > 0, (pixels - low) / chroma, 0.0)
    reach = 1 - (2 * lightness - 1).abs()
    saturated = saturation * torch.where(reach > 0, chroma / reach, 0.0)
    lightness = brightness * lightness
    chroma = saturated * (1 - (2 * lightness - 1).abs())
    return _stored(lightness - chroma / 2 + place * chroma)


def tint(pixels: Tensor, colour: Colour, share: float) -> Tensor:
    """The weighted mean with a colour."""
    return _stored((1 - share) * pixels + share * _as_pixel(colour, pixels))


def gamma(pixels: Tensor, exponent: float) -> Tensor:
    """The power of 1 / exponent."""
    return _stored(pixels ** (1 / exponent))


def sigmoid(pixels: Tensor) -> Tensor:
    """More contrast around the middle, 0 and 1 staying where they are."""
    half = STEEPNESS / 2
    ends = math.tanh(half * MIDDLE)
    return _stored((torch.tanh(half * (pixels - MIDDLE)) + ends) / (2 * ends))


def auto_gamma(pixels: Tensor) -> Tensor:
    """The power that takes the mean of the whole image, all channels together, to a half."""
    mean = pixels.mean((1, 2, 3), keepdim=True)
    # An image all black or all white has no such power, and stays.
    power = torch.where((mean > 0) & (mean < 1), math.log(0.5) / mean.log(), 1.0)
    return _stored(pixels**power)


def colour_tone(pixels: Tensor, colour: Colour, *, dark: bool) -> Tensor:
    """A colour laid over the image where red is high, or where it is low.

    The mask was meant to be the brightness; setting the colour space converts nothing, so its red
    channel is used.
    """
    mask = 1 - pixels[:, :1] if dark else pixels[:, :1]
    return _stored((pixels + mask * _as_pixel(colour, pixels)) / (1 + mask))


def vignette(pixels: Tensor, colour: Colour, *, outwards: bool) -> Tensor:
    """Multiplied with a colour, more and more from the middle to the corners or the other way
    round.
    """
    height, width = pixels.shape[2:]
    rows = torch.arange(height, dtype=pixels.dtype, device=pixels.device) - (height - 1) / 2
    columns = torch.arange(width, dtype=pixels.dtype, device=pixels.device) - (width - 1) / 2
    radius = max(int(VIGNETTE * max(height, width)) - 1, 1) / 2
    distance = (torch.hypot(rows[:, None], columns[None, :]) / radius).clamp(max=1)
    strength = distance if outwards else 1 - distance
    return _stored(pixels * (1 - strength + strength * _as_pixel(colour, pixels)))


def _stored(pixels: Tensor) -> Tensor:
    return (pixels.clamp(0, 1) * DEPTH).round() / DEPTH


def _as_pixel(colour: Colour, like: Tensor) -> Tensor:
    # not new_tensor, which would wait for a GPU at every batch
    return (
        torch.tensor(colour, dtype=like.dtype).to(like.device, non_blocking=True).view(1, 3, 1, 1)
    )
