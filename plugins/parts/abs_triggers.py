"""The two forms of trigger that ABS inverts, several at once: a patch, and a filter over colours
and surroundings.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from plugins.parts.inversion import blend
from plugins.parts.patterns import Stamp
from plugins.parts.similarity import similarity

CORNER, OUTSIDE = 2.0, -2.0
"""Where masks start, before the tanh: on in a square of a quarter of the side, off elsewhere."""
SPAN = 4.0
"""The released code inverts patterns in units of a standard deviation, of which black to white are
about four.
"""
VISIBLE = 0.01
"""A pixel counts for a patch's size where its mask is above this."""
WEIGHT, FAR = 500.0, 100 / 64
"""Of the sum of too large a mask; twice that where it is so many times too large."""
PATCH_OTHERS, FILTER_OTHERS = 1e-4, 1e-5
"""Weights of all other neurons of the layer, relative to the one that is driven."""
DRIVEN = 0.01
"""Weight of neurons beside the similarity."""
ALIKE, UNLIKE, LEAST = 10.0, 10_000.0, 2 / 16
"""Weights of an image's similarity, the second where the mean over images is below `LEAST`."""


class Form(Protocol):
    """k triggers in the making."""

    def groups(self) -> list[tuple[nn.Parameter, float]]:
        """The parameters, each with its learning rate."""

    def stamped(self, images: Tensor) -> Tensor:
        """[0,1] images (n, c, h, w) with each of the triggers: (k, n, c, h, w)."""

    def loss(self, images: Tensor, stamped: Tensor, own: Tensor, others: Tensor) -> Tensor:
        """(k,), of the activations of each trigger's neuron and of the other neurons of its layer,
        both (k,).
        """

    def project(self) -> None:
        """After a step of the optimiser, bring the parameters back to what they may be: beyond,
        gradients would end.
        """

    def trigger(self, number: int) -> nn.Module:
        """One of them, finished."""


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
        free = torch.full((count, 1, height, width), OUTSIDE)
        rows, columns = slice(0, height // 4), slice(0, width // 4)
        if corner in (1, 3):
            rows = slice(height - height // 4, height)
        if corner in (1, 2):
            columns = slice(width - width // 4, width)
        free[:, :, rows, columns] = CORNER
        self.free = nn.Parameter(free.to(images.device))
        self.patterns = nn.Parameter(
            torch.rand(count, channels, height, width, generator=generator).to(images.device)
        )
        self.limit, self.rate = area * height * width, rate

    def groups(self) -> list[tuple[nn.Parameter, float]]:
        """See `Form`."""
        return [(self.free, self.rate), (self.patterns, self.rate / SPAN)]

    def masks(self) -> Tensor:
        """(k, 1, h, w), in (0, 1)."""
        return torch.tanh(self.free) / 2 + 0.5

    def stamped(self, images: Tensor) -> Tensor:
        """See `Form`."""
        return blend(images, self.masks()[:, None], self.patterns[:, None])

    def loss(self, images: Tensor, stamped: Tensor, own: Tensor, others: Tensor) -> Tensor:
        """Drive the neuron, not the others, with a small mask."""
        return PATCH_OTHERS * others - own + punished(self.masks(), self.limit)

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
        self.matrices = nn.Parameter(self.first.matrix.expand(count, -1, -1).clone())
        self.rate = rate

    def groups(self) -> list[tuple[nn.Parameter, float]]:
        """See `Form`."""
        return [(self.matrices, self.rate)]

    def stamped(self, images: Tensor) -> Tensor:
        """See `Form`."""
        return self.first.applied(images, self.matrices)

    def loss(self, images: Tensor, stamped: Tensor, own: Tensor, others: Tensor) -> Tensor:
        """Drive the neuron, not the others, with images that look as they did."""
        alike = similarity(stamped.flatten(0, 1), images.repeat(len(stamped), 1, 1, 1)).view(
            len(stamped), -1
        )
        weight = torch.where(alike.mean(1) < LEAST, UNLIKE, ALIKE)
        return DRIVEN * (FILTER_OTHERS * others - own) - weight * alike.sum(1)

    @torch.no_grad()
    def project(self) -> None:
        """See `Form`."""
        self.matrices.clamp_(-1, 1)

    def trigger(self, number: int) -> nn.Module:
        """See `Form`."""
        return self.first.of(self.matrices[number].detach())


class FilterTrigger(nn.Module):
    """y = (x, max x, min x, mean x) M at every pixel, in units of `mean` and `std` (c,), clipped to
    black and white.
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
        """The one that changes nothing, in units of these images."""
        channels = images.shape[1]
        matrix = torch.eye(4 * channels, channels, device=images.device)
        return cls(
            matrix,
            images.mean((0, 2, 3)),
            images.std((0, 2, 3)) + torch.finfo(images.dtype).eps,
            window,
        )

    def of(self, matrix: Tensor) -> FilterTrigger:
        """Another matrix (4c, c) in the same units."""
        return FilterTrigger(matrix, self.mean, self.std, self.window)

    def forward(self, images: Tensor) -> Tensor:
        """[0,1] floats (n, c, h, w), in and out."""
        return self.applied(images, self.matrix[None])[0]

    def applied(self, images: Tensor, matrices: Tensor) -> Tensor:
        """Several matrices (k, 4c, c) on the same images: (k, n, c, h, w)."""
        mean, std = self.mean.view(-1, 1, 1), self.std.view(-1, 1, 1)
        features = surroundings((images - mean) / std, self.window)
        return filtered(features, matrices, -mean / std, (1 - mean) / std) * std + mean


def filtered(features: Tensor, matrices: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """(n, f, h, w) times (k, f, c), whose entries are cut at -1 and 1: (k, n, c, h, w), from `low`
    to `high`.
    """
    mapped = torch.einsum("nfhw,kfc->knchw", features, matrices.clamp(-1, 1))
    return torch.minimum(torch.maximum(mapped, low), high)


def surroundings(images: Tensor, window: int) -> Tensor:
    """Images (n, c, h, w) with maximum, minimum and mean over a square around each pixel: (n, 4c,
    h, w).

    Where it sticks out of the image, only what is inside counts; of an even window the larger half
    is below and right.
    """
    pad = ((window - 1) // 2, window // 2) * 2
    top = functional.max_pool2d(functional.pad(images, pad, value=-torch.inf), window, 1)
    bottom = -functional.max_pool2d(functional.pad(-images, pad, value=-torch.inf), window, 1)
    sums, counts = (
        functional.avg_pool2d(functional.pad(one, pad), window, 1)
        for one in (images, torch.ones_like(images[:1, :1]))
    )
    return torch.cat([images, top, bottom, sums / counts], dim=1)


def punished(masks: Tensor, limit: float) -> Tensor:
    """The weighted sums of masks (k, 1, h, w) that cover more than `limit` pixels visibly; 0 for
    others.
    """
    covered = (masks > VISIBLE).sum((1, 2, 3))
    weight = WEIGHT * (covered > limit).float() * (1 + (covered > FAR * limit).float())
    return weight * masks.sum((1, 2, 3))
