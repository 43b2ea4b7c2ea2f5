"""The two kinds of pervasive backdoor that distances are measured by: DECK's, and a filter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from harness import Incompatible
from plugins.parts.codec import Codec
from plugins.parts.pervasive import gamma, identity, psi, standardised
from plugins.parts.pervasive_settings import PervasiveSettings
from plugins.parts.vgg_block import LEVELS, WIDTHS


@dataclass(frozen=True)
class Draws:
    """What is drawn for b pictures, the same for all lanes.

    `responses` are what the decoder adds for its draws; `kept` (b, k), of zeros and ones, which
    channels are not dropped, or None.
    """

    responses: Sequence[Tensor]
    kept: Tensor | None


class Backdoor(Protocol):
    """A kind of backdoor: its parameters, and what it makes of pictures.

    Parameters are tensors whose first axis counts lanes; the first two are mean and deviation of
    channels, (lanes, c), in grey levels. `rates` has a learning rate for each.
    """

    rates: Sequence[float]

    def start(self, usual: tuple[Tensor, Tensor], generator: torch.Generator) -> list[Tensor]:
        """Return the parameters at the start.

        `usual` are the statistics of each lane's pictures, (lanes, c). Lanes start with equal
        draws.
        """

    def draws(self, like: Tensor, generator: torch.Generator, search: bool) -> Draws:
        """Draw for pictures of the shape of `like` (b, c, h, w).

        `search` says that parameters are being optimised.
        """

    def applied(self, parameters: Sequence[Tensor], standard: Tensor, draws: Draws) -> Tensor:
        """Put backdoors on `standardised` pictures (lanes, b, c, h, w); return grey levels."""


class Pervasive:
    """DECK's: statistics of channels and a transformation of features, region by region.

    `side` is that of a feature map. Raises Incompatible where it does not fall into regions.
    """

    def __init__(self, settings: PervasiveSettings, codec: Codec, side: tuple[int, int]) -> None:
        if any(length % settings.z for length in side):
            raise Incompatible(
                f"features of {side[0]} x {side[1]} do not fall into {settings.z} x {settings.z} "
                "regions; choose another z"
            )
        self.settings = settings
        self.codec = codec
        self.width = WIDTHS[codec.encoder.layer][-1]
        rates = [settings.level_rate, settings.level_rate, settings.kernel_rate]
        if settings.bias:
            rates.append(settings.kernel_rate)
        self.rates: Sequence[float] = rates

    def start(self, usual: tuple[Tensor, Tensor], generator: torch.Generator) -> list[Tensor]:
        """See `Backdoor`: mean, deviation, kernels and, if asked, bias."""
        settings = self.settings
        lanes, channels = usual[0].shape
        z, m, width = settings.z, settings.m, self.width
        mean, deviation = usual
        draws = torch.randn(z, z, width, width, m, m, generator=generator)
        if settings.start == "identity":
            kernels = identity(z, width, m) + settings.spread * draws
        else:
            levels = torch.rand(2, channels, generator=generator) * LEVELS
            mean, deviation = levels[:, None].expand(2, lanes, channels).to(mean.device)
            # Glorot's deviation, for as many inputs as outputs
            kernels = draws / math.sqrt(width * m * m)
        started = [mean.clone(), deviation.clone(), _each(kernels, lanes, mean.device)]
        if settings.bias:
            bias = torch.randn(z, z, width, generator=generator)
            started.append(_each(bias, lanes, mean.device))
        return started

    def draws(self, like: Tensor, generator: torch.Generator, search: bool) -> Draws:
        """See `Backdoor`."""
        with torch.no_grad():
            responses = self.codec.decoder.responses(self.codec.draws(like, generator))
        kept = None
        if search and self.settings.dropout:
            shape = (len(like), self.width)
            drawn = torch.rand(shape, generator=generator, device=generator.device)
            kept = (drawn >= self.settings.dropout).to(like)
        return Draws(responses, kept)

    def applied(self, parameters: Sequence[Tensor], standard: Tensor, draws: Draws) -> Tensor:
        """See `Backdoor`."""
        mean, deviation, kernels = parameters[:3]
        bias = parameters[3] if self.settings.bias else None
        lanes = (standard.shape[0], standard.shape[1])
        toned = gamma(standard, mean, deviation).flatten(0, 1)
        features, taken = self.codec.encoder.watched(toned)
        if self.settings.normalised:
            features = standardised(features)
        changed = psi(apart(features, lanes), kernels, bias)
        if draws.kept is not None:
            share = 1 - self.settings.dropout
            changed = changed * draws.kept[None, :, :, None, None] / share
        decoded = self.codec.decoder(
            changed.flatten(0, 1), draws.responses, self.codec.places(taken)
        )
        return cut(apart(decoded, lanes), self.settings)


class Toned:
    """A filter: statistics of channels alone, as the first author's public code has it."""

    def __init__(self, settings: PervasiveSettings) -> None:
        self.settings = settings
        self.rates: Sequence[float] = [settings.level_rate, settings.level_rate]

    def start(self, usual: tuple[Tensor, Tensor], generator: torch.Generator) -> list[Tensor]:
        """See `Backdoor`: mean and deviation."""
        if self.settings.start == "identity":
            return [statistic.clone() for statistic in usual]
        lanes, channels = usual[0].shape
        levels = torch.rand(2, channels, generator=generator) * LEVELS
        return [_each(statistic, lanes, usual[0].device) for statistic in levels]

    def draws(self, like: Tensor, generator: torch.Generator, search: bool) -> Draws:
        """See `Backdoor`: nothing is drawn."""
        return Draws((), None)

    def applied(self, parameters: Sequence[Tensor], standard: Tensor, draws: Draws) -> Tensor:
        """See `Backdoor`."""
        mean, deviation = parameters
        return cut(gamma(standard, mean, deviation), self.settings)


def apart(values: Tensor, lanes: tuple[int, int]) -> Tensor:
    """Turn (lanes b, ...) into (lanes, b, ...)."""
    return values.reshape(*lanes, *values.shape[1:])


def cut(levels: Tensor, settings: PervasiveSettings) -> Tensor:
    """Keep grey levels within 0..255, as the settings say."""
    if settings.clip == "none":
        return levels
    inside = levels.clamp(0, LEVELS)
    if settings.clip == "hard":
        return inside
    # the value of the one with the gradient of the other
    return levels + (inside - levels).detach()


def _each(tensor: Tensor, lanes: int, device: torch.device) -> Tensor:
    """Return a copy for each lane."""
    return tensor.to(device).expand(lanes, *tensor.shape).clone()
