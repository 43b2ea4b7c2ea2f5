"""A small image-to-image network without skip connections: it makes an input-aware trigger."""

from __future__ import annotations

from torch import Tensor, nn

from plugins.parts.squashing import squash

BN_MOMENTUM = 0.05
EPSILON = 1e-7
"""Keeps values within (0, 1)."""


class EncoderDecoder(nn.Module):
    """Convolutions that halve an image several times and double it as often.

    Stages of two convolutions and a pooling, one convolution, stages of an upsampling and two
    convolutions. The first stage has `width` channels, each further one twice as many; the way back
    mirrors them. It must be possible to halve images `stages` times without a remainder.
    """

    def __init__(self, inputs: int, outputs: int, width: int, stages: int) -> None:
        super().__init__()
        widths = [width * 2**stage for stage in range(stages)]
        layers: list[nn.Module] = []
        before = inputs
        for after in widths:
            layers += convolution(before, after)
            layers += convolution(after, after)
            layers.append(nn.MaxPool2d(2))
            before = after
        layers += convolution(before, before)
        for after in [*reversed(widths[:-1]), outputs]:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear"))
            layers += convolution(before, before)
            layers += convolution(before, after)
            before = after
        layers.pop()  # no ReLU at the end: the last values are squashed, not cut off
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Turn (n, inputs, h, w) into (n, outputs, h, w) in (0,1), in single precision."""
        values = self.layers(images)
        return squashed(values.float())


def convolution(inputs: int, outputs: int) -> list[nn.Module]:
    """Return a 3x3 convolution, with a bias although BatchNorm follows, as in the source."""
    norm = nn.BatchNorm2d(outputs, momentum=BN_MOMENTUM)
    return [nn.Conv2d(inputs, outputs, 3, padding=1), norm, nn.ReLU(inplace=True)]


def squashed(values: Tensor) -> Tensor:
    """Map any number to (0,1), 0 to a half."""
    return squash(values, -EPSILON)
