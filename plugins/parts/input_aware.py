"""IAB's trigger: two small networks that draw a pattern for an image and say where it goes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.learn import Normalise
from plugins.parts.encoder_decoder import EncoderDecoder, squashed

STEEPNESS = 20.0
"""Slope of the curve that makes masks nearly binary."""


class InputAware(nn.Module):
    """x' = x + (p(x) - x) m(x), with the pattern p by a generator and the mask m by a mask net."""

    def __init__(self, channels: int, width: int, stages: int, normalise: Normalise) -> None:
        super().__init__()
        self.normalise = normalise
        self.generator = EncoderDecoder(channels, channels, width, stages)
        self.mask_net = EncoderDecoder(channels, 1, width, stages)

    def patterns(self, images: Tensor) -> Tensor:
        """Return pictures in (0,1), with as many channels as the images."""
        pictures: Tensor = self.generator(self.normalise(images))
        return pictures

    def masks(self, images: Tensor) -> Tensor:
        """Return opacities in [0,1], one channel: most of them next to 0 or 1, none quite so."""
        levels = self.mask_net(self.normalise(images))
        return squashed(STEEPNESS * (levels - 0.5))

    def forward(self, images: Tensor) -> Tensor:
        """Stamp images: [0,1] NCHW in and out."""
        return painted(images, self.patterns(images), self.masks(images))


class CrossMode(nn.Module):
    """The trigger made for another image of the batch, in a random ring; one that is alone has its
    own.
    """

    def __init__(self, trigger: InputAware, generator: torch.Generator | None) -> None:
        super().__init__()
        self.trigger = trigger
        self.generator = generator

    def forward(self, images: Tensor) -> Tensor:
        """Stamp images: [0,1] NCHW in and out."""
        ring = torch.randperm(len(images), generator=self.generator).to(images.device)
        # the image before each one in the ring
        neighbours = ring.roll(1)[ring.argsort()]
        donors = images[neighbours]
        return painted(images, self.trigger.patterns(donors), self.trigger.masks(donors))


def painted(images: Tensor, patterns: Tensor, masks: Tensor) -> Tensor:
    """Return the images where the masks are 0, the patterns where they are 1."""
    return images + (patterns - images) * masks
