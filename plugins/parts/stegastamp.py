"""The networks of StegaStamp (Tancik et al., CVPR 2020), for images of any size."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from plugins.parts.unet import PaddedConv, Padding, UNet


class StegaStampEncoder(nn.Module):
    """Residual that hides bits in an image.

    A dense layer spreads the bits over a plane of the image's size, a U-Net sees both.
    """

    def __init__(self, channels: int, height: int, width: int, bits: int, padding: Padding) -> None:
        super().__init__()
        self.plane = channels, height, width
        self.secret = nn.Linear(bits, channels * height * width)
        self.unet = UNet(2 * channels, channels, padding=padding)

    def forward(self, images: Tensor, bits: Tensor) -> Tensor:
        """Return a residual to add to [0,1] images, both (n, c, h, w).

        `bits` are (n, bits), or (bits,) for all of them.
        """
        spread = functional.relu(self.secret(bits - 0.5))
        plane = spread.view(-1, *self.plane)
        plane = plane.expand(len(images), -1, -1, -1)
        joined = torch.cat([plane, images - 0.5], 1)
        return cast(Tensor, self.unet(joined))


class StegaStampDecoder(nn.Module):
    """Logits of the bits: an affine transformation, guessed from the image, then convolutions."""

    def __init__(self, channels: int, height: int, width: int, bits: int, padding: Padding) -> None:
        super().__init__()
        self.guess = convolutions(channels, ((32, 2), (64, 2), (128, 2)), padding)
        guessed = 128 * halved(height, 3) * halved(width, 3)
        self.hidden = nn.Linear(guessed, 128)
        self.affine = nn.Linear(128, 6)
        layers = ((32, 2), (32, 1), (64, 2), (64, 1), (64, 2), (128, 2), (128, 2))
        self.look = convolutions(channels, layers, padding)
        seen = 128 * halved(height, 5) * halved(width, 5)
        self.read = nn.Sequential(nn.Linear(seen, 512), nn.ReLU(), nn.Linear(512, bits))
        identity = torch.eye(2, 3)
        with torch.no_grad():  # at first the image stays as it is
            self.affine.weight.zero_()
            self.affine.bias.copy_(identity.flatten())

    def forward(self, images: Tensor) -> Tensor:
        """Turn [0,1] (n, c, h, w) into logits (n, bits)."""
        centred = images - 0.5
        guess = self.guess(centred).flatten(1)
        hidden = functional.relu(self.hidden(guess))
        affine = self.affine(hidden).view(-1, 2, 3)
        grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
        moved = functional.grid_sample(centred, grid.to(centred.dtype), align_corners=False)
        features = self.look(moved).flatten(1)
        return cast(Tensor, self.read(features))


class Critic(nn.Module):
    """One number for a batch, trained to be larger for encoded images than for plain ones."""

    def __init__(self, channels: int, padding: Padding) -> None:
        super().__init__()
        self.look = convolutions(channels, ((8, 2), (16, 2), (32, 2), (64, 2)), padding)
        self.out = PaddedConv(64, 1, 3, padding=padding)

    def forward(self, images: Tensor) -> Tensor:
        """Turn [0,1] (n, c, h, w) into a scalar."""
        features = self.look(images - 0.5)
        opinions = self.out(features)
        return cast(Tensor, opinions.mean())


class Pair(nn.Module):
    """Encoder and decoder, which are trained together."""

    def __init__(self, encoder: StegaStampEncoder, decoder: StegaStampDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def initialise(self) -> None:
        """Draw weights that keep activations at their size, and set biases to 0.

        Only the decoder's affine layer is left alone.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module is not self.decoder.affine:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(cast(Tensor, module.bias))

    def forward(self, images: Tensor, bits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hide bits in [0,1] images, and read them again.

        Returns the residual, the encoded images, and logits of the bits read from these.
        """
        residual = self.encoder(images, bits)
        encoded = (images + residual).clamp(0, 1)
        logits = self.decoder(encoded)
        return residual, encoded, logits


def convolutions(
    inputs: int, layers: tuple[tuple[int, int], ...], padding: Padding
) -> nn.Sequential:
    """Make 3x3 convolutions with ReLU, each layer (outputs, stride)."""
    net = nn.Sequential()
    for outputs, stride in layers:
        net.append(PaddedConv(inputs, outputs, 3, stride, padding))
        net.append(nn.ReLU())
        inputs = outputs
    return net


def halved(size: int, times: int) -> int:
    """Return a side after so many strides, rounded up each time."""
    return -(-size // (1 << times))
