"""The networks of a CycleGAN for small pictures, as DFST's released code has them.

Two things in them are unusual. Pictures are in units of the training pictures' mean and standard
deviation, and the generator's last tanh is read in the same units, so that its output lies within
one deviation of the mean. Instance normalisation is over all channels and places at once, with one
scale and one shift.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-3
"""Added to standard deviations."""
TINY = 1e-12
"""Least variance: the square root has no slope at 0."""
SCALE = 0.02
"""Standard deviation of the initial weights."""


class PixelUnits(nn.Module):
    """[0,1] pixels to deviations from the mean of each channel, and back.

    `mean` and `std` are saved with a network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def set(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Fill both, one number for each channel, in [0,1] pixels."""
        means = torch.tensor(mean)
        deviations = torch.tensor(std)
        self.mean.copy_(means.view(-1, 1, 1))
        self.std.copy_(deviations.view(-1, 1, 1))

    def normalised(self, images: Tensor) -> Tensor:
        """Return (n, c, h, w) pixels in units."""
        return (images - self.mean) / self.std

    def pixels(self, values: Tensor) -> Tensor:
        """Return units as [0,1] pixels, clipped."""
        pixels = values * self.std + self.mean
        return pixels.clamp(0, 1)

    @property
    def span(self) -> Tensor:
        """Highest minus lowest value that a pixel of any channel can have, in units."""
        white = (1 - self.mean) / self.std
        black = -self.mean / self.std
        return white.max() - black.min()


class InstanceNorm(nn.Module):
    """(x - mean) / (std + 0.001) over all channels and places of an image.

    The result is scaled and shifted by one number each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1))
        self.beta = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        """Keep the shape of `images` (n, c, h, w)."""
        variance, mean = torch.var_mean(images, (1, 2, 3), correction=0, keepdim=True)
        centred = images - mean
        deviation = variance.clamp_min(TINY).sqrt() + EPSILON
        return centred / deviation * self.gamma + self.beta


class ReflectedConv(nn.Conv2d):
    """Convolution of an image continued by half a kernel of its reflection on each side."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride)
        nn.init.normal_(self.weight, std=SCALE)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Turn (n, inputs, h, w) into (n, outputs, ...)."""
        margin = self.kernel_size[0] // 2
        continued = functional.pad(images, (margin,) * 4, mode="reflect")
        return super().forward(continued)


class Residual(nn.Module):
    """Two normalised 3x3 convolutions added to their input, activated after the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*_normalised(width, width, 3), nn.ReLU())
        self.second = nn.Sequential(*_normalised(width, width, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Keep the shape of `images`; the result is not negative."""
        inner = self.first(images)
        total = images + self.second(inner)
        return functional.relu(total)


class Generator(nn.Module):
    """Translator of pictures into another style: two halvings, a residual block, two doublings.

    It has 489,235 parameters, and takes pictures of 5 pixels and more. The released code means to
    have nine blocks, but its loop starts each from the same input and connects the last.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.units = PixelUnits(channels)
        down = [(channels, 32, 7, 1), (32, 64, 3, 2), (64, 128, 3, 2)]
        layers = nn.Sequential()
        for inputs, outputs, kernel, stride in down:
            layers.extend(_normalised(inputs, outputs, kernel, stride))
            layers.append(nn.ReLU())
        layers.append(Residual(128))
        for inputs, outputs in [(128, 64), (64, 32)]:
            layers.append(nn.Upsample(scale_factor=2))
            layers.extend(_normalised(inputs, outputs, 3))
            layers.append(nn.ReLU())
        layers.extend(_normalised(32, channels, 7))
        layers.append(nn.Tanh())
        self.layers = layers

    def translate(self, values: Tensor) -> Tensor:
        """Translate (n, c, h, w) in units to the same shape, in [-1,1]."""
        height, width = values.shape[2:]
        translated: Tensor = self.layers(values)
        # sides that were rounded up when halved have come back longer
        return translated[:, :, :height, :width]

    def forward(self, images: Tensor) -> Tensor:
        """Translate [0,1] NCHW, in and out."""
        values = self.units.normalised(images)
        translated = self.translate(values)
        return self.units.pixels(translated)


def discriminator(channels: int, width: int = 64) -> nn.Sequential:
    """Make a judge of patches: pictures (n, c, h, w) in units to shares in [0,1].

    There are 7 x 7 shares at 32 pixels; a picture has 10 pixels at least. The first layer has
    `width` channels, the next ones two, four and eight times as many.
    """
    layers = nn.Sequential()
    layers.append(ReflectedConv(channels, width, 4, 2))
    layers.append(nn.ReLU())
    for inputs, outputs, stride in [(1, 2, 2), (2, 4, 2), (4, 8, 1)]:
        layers.extend(_normalised(inputs * width, outputs * width, 4, stride))
        layers.append(nn.ReLU())
    layers.append(ReflectedConv(8 * width, 1, 4))
    layers.append(nn.Sigmoid())
    return layers


def _normalised(
    inputs: int, outputs: int, kernel: int, stride: int = 1
) -> tuple[nn.Module, nn.Module]:
    """Make a convolution and its normalisation."""
    return ReflectedConv(inputs, outputs, kernel, stride), InstanceNorm()
