"""A small image-to-image network without skip connections: what an input-aware trigger is made
with.
"""

from __future__ import annotations

from torch import Tensor, nn

from plugins.parts.squashing import squash

BN_MOMENTUM = 0.05
EPSILON = 1e-7
"""Keeps values within (0, 1)."""


class EncoderDecoder(nn.Module):
    """Stages of two convolutions and a pooling, one convolution, stages of an upsampling and two
    convolutions.

    The first stage has `width` channels, each further one twice as many; the way back mirrors them.
    Images must be halved `stages` times without a remainder.
    """

    def __init__(self, inputs: int, outputs: int, width: int, stages: int) -> None:
        super().__init__()
        widths = [width * 2**stage for stage in range(stages)]
        layers: list[nn.Module] = []
        for before, after in zip([inputs, *widths], widths, strict=False):
            layers += [*convolution(before, after), *convolution(after, after), nn.MaxPool2d(2)]
        layers += convolution(widths[-1], widths[-1])
        for before, after in zip(widths[::-1], [*widths[-2::-1], outputs], strict=True):
            layers += [nn.Upsample(scale_factor=2, mode="bilinear"), *convolution(before, before)]
            layers += convolution(before, after)
        self.layers = nn.Sequential(*layers[:-1])  # the last values are squashed, not cut off

    def forward(self, images: Tensor) -> Tensor:
        """(n, inputs, height, width) to (n, outputs, height, width) in (0,1), in single precision."""
        return squashed(self.layers(images).float())


def convolution(inputs: int, outputs: int) -> list[nn.Module]:
    """3x3, with a bias although BatchNorm follows, as in the source."""
    norm = nn.BatchNorm2d(outputs, momentum=BN_MOMENTUM)
    return [nn.Conv2d(inputs, outputs, 3, padding=1), norm, nn.ReLU(inplace=True)]


def squashed(values: Tensor) -> Tensor:
    """Any number to (0,1), 0 to a half."""
    return squash(values, -EPSILON)
