"""The two forms of trigger that ABS inverts, several at once: a patch, and a filter.

A filter computes the new colour of a pixel from its own and from those around it.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from plugins.parts.inversion import blend
from plugins.parts.patterns import Stamp
from plugins.parts.similarity import similarity

CORNER = 2.0
"""Masks before the tanh at the start, in a square of a quarter of the side: on."""
OUTSIDE = -2.0
"""The same elsewhere: off."""
SPAN = 4.0
"""The released code inverts patterns in units of a standard deviation, of which black to white are
about four.
"""
VISIBLE = 0.01
"""A pixel counts for a patch's size where its mask is above this."""
WEIGHT = 500.0
"""Of the sum of a mask that is too large."""
FAR = 100 / 64
"""The weight is twice that for a mask more than so many times too large."""
PATCH_OTHERS = 1e-4
"""Weight of all other neurons of the layer, relative to the one that a patch drives."""
FILTER_OTHERS = 1e-5
"""The same for a filter."""
DRIVEN = 0.01
"""Weight of neurons beside the similarity."""
LEAST = 2 / 16
"""Mean similarity over images below which they are too unlike what they were."""
ALIKE = 10.0
"""Weight of an image's similarity where the mean is at least that."""
UNLIKE = 10_000.0
"""Weight of an image's similarity where the mean is lower."""


class Form(Protocol):
    """k triggers of one form, while they are optimised."""

    def groups(self) -> list[tuple[nn.Parameter, float]]:
        """Return the parameters, each with its learning rate."""

    def stamped(self, images: Tensor) -> Tensor:
        """Put each of the triggers on [0,1] images (n, c, h, w): (k, n, c, h, w)."""

    def loss(self, images: Tensor, stamped: Tensor, own: Tensor, others: Tensor) -> Tensor:
        """Return the loss of each trigger, (k,).

        `own` and `others`, both (k,), are the activations of each trigger's neuron and of the other
        neurons of its layer.
        """

    def project(self) -> None:
        """Bring the parameters back into their range after a step of the optimiser.

        Beyond it gradients would end.
        """

    def trigger(self, number: int) -> nn.Module:
        """Return one of the triggers, finished."""


class Patches:
    """Masks and patterns; a mask may cover `area` of the image, as a share, without being punished.

    It starts in the corner of the image that `corner` numbers: 0 top left, 1 bottom right, 2 top
    right, 3 bottom left.
    """

    def __init__(
        self,
        count: int,
        images: Tensor,
        area: float,
        rate: float,
        generator: torch.Generator,
        corner: int = 0,
    ) -> None:
        channels, height, width = images.shape[1:]
        rows = slice(0, height // 4)
        if corner in (1, 3):
            rows = slice(height - height // 4, height)
        columns = slice(0, width // 4)
        if corner in (1, 2):
            columns = slice(width - width // 4, width)
        free = torch.full((count, 1, height, width), OUTSIDE)
        free[:, :, rows, columns] = CORNER
        patterns = torch.rand(count, channels, height, width, generator=generator)
        self.free = nn.Parameter(free.to(images.device))
        self.patterns = nn.Parameter(patterns.to(images.device))
        self.limit = area * height * width
        self.rate = rate

    def groups(self) -> list[tuple[nn.Parameter, float]]:
        """See `Form`."""
        return [(self.free, self.rate), (self.patterns, self.rate / SPAN)]

    def masks(self) -> Tensor:
        """Return the masks, (k, 1, h, w), in (0, 1)."""
        return torch.tanh(self.free) / 2 + 0.5

    def stamped(self, images: Tensor) -> Tensor:
        """See `Form`."""
        masks = self.masks()[:, None]
        patterns = self.patterns[:, None]
        return blend(images, masks, patterns)

    def loss(self, images: Tensor, stamped: Tensor, own: Tensor, others: Tensor) -> Tensor:
        """Drive the neuron, not the others, with a small mask."""
        activations = PATCH_OTHERS * others - own
        return activations + penalty(self.masks(), self.limit)

    @torch.no_grad()
    def project(self) -> None:
        """See `Form`."""
        self.patterns.clamp_(0, 1)

    def trigger(self, number: int) -> nn.Module:
        """See `Form`."""
        with torch.no_grad():
            mask = self.masks()[number]
            return Stamp(mask, mask * self.patterns[number])


class Filters:
    """Matrices from a pixel and the maximum, minimum and mean around it to its new colour."""

    def __init__(self, count: int, images: Tensor, window: int, rate: float) -> None:
        self.first = FilterTrigger.like(images, window)
        matrices = self.first.matrix.expand(count, -1, -1)
        self.matrices = nn.Parameter(matrices.clone())
        self.rate = rate

    def groups(self) -> list[tuple[nn.Parameter, float]]:
        """See `Form`."""
        return [(self.matrices, self.rate)]

    def stamped(self, images: Tensor) -> Tensor:
        """See `Form`."""
        return self.first.applied(images, self.matrices)

    def loss(self, images: Tensor, stamped: Tensor, own: Tensor, others: Tensor) -> Tensor:
        """Drive the neuron, not the others, with images that look as they did."""
        count = len(stamped)
        after = stamped.flatten(0, 1)
        before = images.repeat(count, 1, 1, 1)
        alike = similarity(after, before).view(count, -1)
        weight = torch.where(alike.mean(1) < LEAST, UNLIKE, ALIKE)
        activations = DRIVEN * (FILTER_OTHERS * others - own)
        return activations - weight * alike.sum(1)

    @torch.no_grad()
    def project(self) -> None:
        """See `Form`."""
        self.matrices.clamp_(-1, 1)

    def trigger(self, number: int) -> nn.Module:
        """See `Form`."""
        matrix = self.matrices[number].detach()
        return self.first.of(matrix)


class FilterTrigger(nn.Module):
    """y = (x, max x, min x, mean x) M at every pixel, clipped to black and white.

    Colours are in units of `mean` and `std` (c,).
    """

    matrix: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, matrix: Tensor, mean: Tensor, std: Tensor, window: int) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix.clone())
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.window = window

    @classmethod
    def like(cls, images: Tensor, window: int) -> FilterTrigger:
        """Make the one that changes nothing, in units of these images."""
        channels = images.shape[1]
        matrix = torch.eye(4 * channels, channels, device=images.device)
        mean = images.mean((0, 2, 3))
        std = images.std((0, 2, 3)) + torch.finfo(images.dtype).eps
        return cls(matrix, mean, std, window)

    def of(self, matrix: Tensor) -> FilterTrigger:
        """Make one with another matrix (4c, c) in the same units."""
        return FilterTrigger(matrix, self.mean, self.std, self.window)

    def forward(self, images: Tensor) -> Tensor:
        """Filter [0,1] floats (n, c, h, w), in and out."""
        return self.applied(images, self.matrix[None])[0]

    def applied(self, images: Tensor, matrices: Tensor) -> Tensor:
        """Apply several matrices (k, 4c, c) to the same images: (k, n, c, h, w)."""
        mean = self.mean.view(-1, 1, 1)
        std = self.std.view(-1, 1, 1)
        features = local_statistics((images - mean) / std, self.window)
        black = -mean / std
        white = (1 - mean) / std
        return filtered(features, matrices, black, white) * std + mean


def filtered(features: Tensor, matrices: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Multiply (n, f, h, w) by (k, f, c): (k, n, c, h, w), cut off at `low` and `high`.

    The entries of the matrices are cut off at -1 and 1.
    """
    mapped = torch.einsum("nfhw,kfc->knchw", features, matrices.clamp(-1, 1))
    above = torch.maximum(mapped, low)
    return torch.minimum(above, high)


def local_statistics(images: Tensor, window: int) -> Tensor:
    """Join images (n, c, h, w) with maximum, minimum and mean around each pixel: (n, 4c, h, w).

    They are those of a square with sides of `window` pixels. Where it sticks out of the image, only
    what is inside counts; of an even window the larger half is below and right.
    """
    before = (window - 1) // 2
    behind = window // 2
    margins = (before, behind, before, behind)

    def highest(pixels: Tensor) -> Tensor:
        padded = functional.pad(pixels, margins, value=-torch.inf)
        return functional.max_pool2d(padded, window, 1)

    def average(pixels: Tensor) -> Tensor:
        padded = functional.pad(pixels, margins)
        return functional.avg_pool2d(padded, window, 1)

    top = highest(images)
    bottom = -highest(-images)
    sums = average(images)
    inside = average(torch.ones_like(images[:1, :1]))
    return torch.cat([images, top, bottom, sums / inside], dim=1)


def penalty(masks: Tensor, limit: float) -> Tensor:
    """Return a penalty for each of the masks (k, 1, h, w) that covers more than `limit` pixels.

    It is the weighted sum of the mask, and 0 for the others. Only visible pixels count as covered.
    """
    covered = (masks > VISIBLE).sum((1, 2, 3))
    large = (covered > limit).float()
    far_too_large = (covered > FAR * limit).float()
    weight = WEIGHT * large * (1 + far_too_large)
    return weight * masks.sum((1, 2, 3))
