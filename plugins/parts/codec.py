"""An encoder of pictures with the decoder that undoes it: DECK's f and its inverse.

Between the two, features may be changed; the decoder shows what picture they would be of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from plugins.parts.upsampling import (
    Upsampling,
    back_in_place,
    gaussian,
    nearest,
    places_of,
)
from plugins.parts.vgg_block import LEVELS, WIDTHS, Encoder, Layer

MIDDLE = LEVELS / 2
"""The grey level that a decoder gives for zeros, and the grey levels that it gives one for."""


class Decoder(nn.Module):
    """The encoder backwards: for each block an upsampling and two transposed convolutions.

    All but the last are followed by a ReLU.
    """

    unit: Tensor
    """what features are divided by first"""

    def __init__(self, layer: Layer, channels: int, upsampling: Upsampling, kernel: int) -> None:
        super().__init__()
        self.upsampling = upsampling
        self.kernel = kernel
        self.widths = tuple(reversed(WIDTHS[layer]))
        """Channels of the maps that are upsampled, in the decoder's order."""
        self.convolutions = nn.ModuleList()
        for width, after in zip(self.widths, (*self.widths[1:], channels), strict=True):
            for outputs in (width, after):
                made = nn.ConvTranspose2d(width, outputs, kernel, padding=kernel // 2)
                self.convolutions.append(made)
        for number, width in enumerate(self.widths):
            self.register_buffer(f"sigma{number}", torch.ones(width))
        self.register_buffer("unit", torch.ones(()))

    @torch.no_grad()
    def measure(self, taken: Sequence[Tensor], share: float) -> None:
        """Set the deviation of the draws: `share` of that of what each pooling took, by channel.

        `taken` are maps (n, k, h, w) in the encoder's order. Features are divided by the mean
        deviation, so that the decoder learns in numbers near one.
        """
        for number, values in enumerate(reversed(taken)):
            deviations = values.std((0, 2, 3), correction=0)
            self.get_buffer(f"sigma{number}").copy_(share * deviations)
            if number == 0:
                self.get_buffer("unit").copy_(deviations.mean().clamp(min=1e-6))

    @property
    def stages(self) -> int:
        """How often it upsamples."""
        return len(self.widths)

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> list[Tensor]:
        """Draw what random upsampling puts beside the features of `count` pictures.

        `height` and `width` are the features'. Nothing where upsampling is not random.
        """
        if self.upsampling != "random":
            return []
        drawn: list[Tensor] = []
        for number, channels in enumerate(self.widths):
            height *= 2
            width *= 2
            shape = (count, channels, height, width)
            drawn.append(gaussian(shape, self.get_buffer(f"sigma{number}"), generator))
        return drawn

    def responses(self, drawn: Sequence[Tensor]) -> list[Tensor]:
        """Return what the convolution behind each upsampling makes of the draws alone.

        A convolution of a sum is the sum of convolutions: whoever decodes several features with the
        same draws convolves these once.
        """
        return [
            self._convolved(2 * number, noise / self.unit) for number, noise in enumerate(drawn)
        ]

    def forward(
        self, features: Tensor, responses: Sequence[Tensor] = (), places: Sequence[Tensor] = ()
    ) -> Tensor:
        """Turn features (n, k, h, w) into grey levels (n, c, s h, s w), which nothing bounds.

        `responses` belong to the first of n / len(response) groups of pictures and to all others
        alike. `places` are those of the poolings in the encoder's order, for `swwae`.
        """
        values = features / self.unit
        for number in range(self.stages):
            if self.upsampling in ("random", "zero"):
                values = self._convolved_apart(2 * number, values)
                if responses:
                    response = responses[number]
                    groups = len(values) // len(response)
                    values += response.repeat(groups, 1, 1, 1)
            elif self.upsampling == "nearest":
                values = self._convolved(2 * number, nearest(values))
            else:
                put = back_in_place(values, places[self.stages - 1 - number])
                values = self._convolved(2 * number, put)
            values += self._bias(2 * number)
            last = 2 * number + 1
            values = self._convolved(last, functional.relu_(values))
            values += self._bias(last)
            if number < self.stages - 1:
                values = functional.relu_(values)
        return values * MIDDLE + MIDDLE

    def _convolved(self, number: int, values: Tensor) -> Tensor:
        """Convolve, without bias."""
        weight = self.convolutions[number].get_parameter("weight")
        return functional.conv_transpose2d(values, weight, padding=self.kernel // 2)

    def _convolved_apart(self, number: int, values: Tensor) -> Tensor:
        """Convolve what zeros are put between, without bias and without multiplying zeros.

        That is a transposed convolution of stride 2, for a quarter of the price.
        """
        weight = self.convolutions[number].get_parameter("weight")
        return functional.conv_transpose2d(
            values, weight, stride=2, padding=self.kernel // 2, output_padding=1
        )

    def _bias(self, number: int) -> Tensor:
        return self.convolutions[number].get_parameter("bias").view(1, -1, 1, 1)


class Codec(nn.Module):
    """Encoder and decoder, with what is known of them."""

    psnr: Tensor
    """decibel, mean over held-out pictures"""
    ssim: Tensor
    """mean over held-out pictures"""
    trained: Tensor
    """boolean: the encoder was trained here, in place of an ImageNet network's weights"""

    def __init__(self, layer: Layer, channels: int, upsampling: Upsampling, kernel: int) -> None:
        super().__init__()
        self.encoder = Encoder(layer)
        self.decoder = Decoder(layer, channels, upsampling, kernel)
        self.register_buffer("psnr", torch.zeros(()))
        self.register_buffer("ssim", torch.zeros(()))
        self.register_buffer("trained", torch.zeros((), dtype=torch.bool))

    def draws(self, levels: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Draw for pictures of this shape what random upsampling needs, on their device."""
        count, _, height, width = levels.shape
        shrinks = self.encoder.shrinks
        drawn = self.decoder.draw(count, height // shrinks, width // shrinks, generator)
        return [noise.to(levels.device, non_blocking=True) for noise in drawn]

    def places(self, taken: Sequence[Tensor]) -> list[Tensor]:
        """Return where poolings found their values, if the decoder asks."""
        if self.decoder.upsampling != "swwae":
            return []
        return [places_of(values) for values in taken]

    def forward(self, levels: Tensor, generator: torch.Generator) -> Tensor:
        """Encode and decode pictures of grey levels (n, c, h, w)."""
        features, taken = self.encoder.watched(levels)
        responses = self.decoder.responses(self.draws(levels, generator))
        decoded = self.decoder(features, responses, self.places(taken))
        return cast(Tensor, decoded)
