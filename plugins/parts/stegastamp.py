"""The networks of StegaStamp (Tancik et al., CVPR 2020) for images of any size: encoder, decoder
and critic.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from plugins.parts.unet import PaddedConv, Padding, UNet


class Encoder(nn.Module):
    """Residual that hides bits in an image: a dense layer spreads them over a plane of its size, a
    U-Net sees both.
    """

    def __init__(self, channels: int, height: int, width: int, bits: int, padding: Padding) -> None:
        super().__init__()
        self.plane = channels, height, width
        self.secret = nn.Linear(bits, channels * height * width)
        self.unet = UNet(2 * channels, channels, padding=padding)

    def forward(self, images: Tensor, bits: Tensor) -> Tensor:
        """[0,1] (n, c, h, w), with bits (n, bits) or (bits,) for all of them: a residual to add,
        (n, c, h, w).
        """
        plane = (
            functional.relu(self.secret(bits - 0.5))
            .view(-1, *self.plane)
            .expand(len(images), -1, -1, -1)
        )
        return cast(Tensor, self.unet(torch.cat([plane, images - 0.5], 1)))


class Decoder(nn.Module):
    """Logits of the bits: an affine transformation, guessed from the image, then convolutions."""

    def __init__(self, channels: int, height: int, width: int, bits: int, padding: Padding) -> None:
        super().__init__()
        self.guess = convolutions(channels, ((32, 2), (64, 2), (128, 2)), padding)
        self.hidden = nn.Linear(128 * halved(height, 3) * halved(width, 3), 128)
        self.affine = nn.Linear(128, 6)
        layers = ((32, 2), (32, 1), (64, 2), (64, 1), (64, 2), (128, 2), (128, 2))
        self.look = convolutions(channels, layers, padding)
        self.read = nn.Sequential(
            nn.Linear(128 * halved(height, 5) * halved(width, 5), 512),
            nn.ReLU(),
            nn.Linear(512, bits),
        )
        with torch.no_grad():  # at first the image stays as it is
            self.affine.weight.zero_()
            self.affine.bias.copy_(torch.eye(2, 3).flatten())

    def forward(self, images: Tensor) -> Tensor:
        """[0,1] (n, c, h, w) to logits (n, bits)."""
        centred = images - 0.5
        hidden = functional.relu(self.hidden(self.guess(centred).flatten(1)))
        grid = functional.affine_grid(
            self.affine(hidden).view(-1, 2, 3), list(images.shape), align_corners=False
        )
        moved = functional.grid_sample(centred, grid.to(centred.dtype), align_corners=False)
        return cast(Tensor, self.read(self.look(moved).flatten(1)))


class Critic(nn.Module):
    """One number for a batch, trained to be larger for encoded images than for plain ones."""

    def __init__(self, channels: int, padding: Padding) -> None:
        super().__init__()
        self.look = convolutions(channels, ((8, 2), (16, 2), (32, 2), (64, 2)), padding)
        self.out = PaddedConv(64, 1, 3, padding=padding)

    def forward(self, images: Tensor) -> Tensor:
        """[0,1] (n, c, h, w) to a scalar."""
        return cast(Tensor, self.out(self.look(images - 0.5)).mean())


class Pair(nn.Module):
    """Encoder and decoder, which are trained together."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def initialise(self) -> None:
        """Draw weights that keep activations at their size, biases 0; only the decoder's affine
        layer is left alone.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module is not self.decoder.affine:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(cast(Tensor, module.bias))

    def forward(self, images: Tensor, bits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[0,1] images and their bits: the residual, the encoded images, and logits of the bits
        read from these.
        """
        residual = self.encoder(images, bits)
        encoded = (images + residual).clamp(0, 1)
        return residual, encoded, self.decoder(encoded)


def convolutions(
    inputs: int, layers: tuple[tuple[int, int], ...], padding: Padding
) -> nn.Sequential:
    """3x3 convolutions with ReLU, each layer (outputs, stride)."""
    net = nn.Sequential()
    for outputs, stride in layers:
        net.append(PaddedConv(inputs, outputs, 3, stride, padding)).append(nn.ReLU())
        inputs = outputs
    return net


def halved(size: int, times: int) -> int:
    """A side after so many strides, rounded up each time."""
    return -(-size // (1 << times))
