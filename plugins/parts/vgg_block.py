"""The first layers of a VGG, up to its first or second pooling, as a fixed encoder of pictures.

Simonyan & Zisserman, ICLR 2015. What an ImageNet network has learned there are edges, colours and
textures, which serve any picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from plugins.parts.weights_file import read_state

Layer = Literal["pool1", "pool2"]

WIDTHS: Mapping[Layer, tuple[int, ...]] = {"pool1": (64,), "pool2": (64, 128)}
"""Channels of the blocks before each pooling; a block has two convolutions."""
LEVELS = 255.0
"""White, in grey levels."""


@dataclass(frozen=True)
class Release:
    """Where a release has its convolutions, and what grey levels they take.

    They take (levels - mean) / std, both for red, green and blue; `order` are the channels of their
    input.
    """

    convolutions: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    order: tuple[int, int, int] = (0, 1, 2)


ORIGINAL = Release(
    ("conv1_1", "conv1_2", "conv2_1", "conv2_2"),
    (123.68, 116.779, 103.939),
    (1.0, 1.0, 1.0),
    (2, 1, 0),
)
"""The authors' weights, which Keras has too: blue first, on 0..255."""
TORCHVISION = Release(
    ("features.0", "features.2", "features.5", "features.7"),
    (0.485 * LEVELS, 0.456 * LEVELS, 0.406 * LEVELS),
    (0.229 * LEVELS, 0.224 * LEVELS, 0.225 * LEVELS),
)
"""VGG-13, 16 and 19 of torchvision; of these, 16 and 19 begin with the same layers."""
SCALE = 57.6
"""Grey levels: about torchvision's std. Features for inputs in such units are multiplied by it, so
that they have the size that the original release gives, for which DECK's weights are meant.
"""


class Encoder(nn.Module):
    """Blocks of two 3 x 3 convolutions, each followed by a ReLU, and a 2 x 2 max-pooling.

    Grey pictures are taken as red, green and blue alike. `layer` says after which pooling it ends.
    """

    mean: Tensor
    """(3, 1, 1), grey levels"""
    std: Tensor
    """(3, 1, 1), grey levels"""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer: Layer = layer
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("std", torch.ones(3, 1, 1))
        self.convolutions = nn.ModuleList()
        before = 3
        for width in WIDTHS[layer]:
            self.convolutions.append(nn.Conv2d(before, width, 3, padding=1))
            self.convolutions.append(nn.Conv2d(width, width, 3, padding=1))
            before = width

    @property
    def shrinks(self) -> int:
        """By what it divides height and width."""
        shrinks: int = 2 ** len(WIDTHS[self.layer])
        return shrinks

    def forward(self, levels: Tensor) -> Tensor:
        """Turn grey levels (n, 1 or 3, h, w), white 255, into features (n, k, h/s, w/s)."""
        features, _ = self.watched(levels)
        return features

    def watched(self, levels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the features, and what each pooling took, the first pooling first."""
        values = (levels.expand(-1, 3, -1, -1) - self.mean) / self.std
        taken: list[Tensor] = []
        for first, second in zip(self.convolutions[::2], self.convolutions[1::2], strict=True):
            values = functional.relu_(first(values))
            values = functional.relu_(second(values))
            taken.append(values)
            values = functional.max_pool2d(values, 2)
        return values, taken

    @torch.no_grad()
    def rescale(self) -> None:
        """Multiply all features by SCALE: the input's unit shrinks, and biases grow, by it."""
        self.std /= SCALE
        for convolution in self.convolutions:
            bias = convolution.get_parameter("bias")
            bias.mul_(SCALE)


def read_encoder(encoder: Encoder, path: Path) -> None:
    """Fill an encoder from a file of a VGG without BatchNorm; what lies beside is left alone.

    The names say of which release it is: the original's (conv1_1.weight, ...) or torchvision's
    (features.0.weight, ...). Raises ValueError where it has neither, or other shapes.
    """
    fill_encoder(encoder, read_state(path), str(path))


def fill_encoder(encoder: Encoder, state: Mapping[str, object], source: str) -> None:
    """Fill an encoder from a state by the names of a release.

    Raises ValueError as `read_encoder`.
    """
    count = len(encoder.convolutions)
    for release in (ORIGINAL, TORCHVISION):
        names = release.convolutions[:count]
        if f"{names[0]}.weight" in state:
            break
    else:
        raise ValueError(
            f"{source}: no first block of a VGG; {ORIGINAL.convolutions[0]}.weight or "
            f"{TORCHVISION.convolutions[0]}.weight is expected among its tensors"
        )
    for place, (name, convolution) in enumerate(zip(names, encoder.convolutions, strict=True)):
        for kind in ("weight", "bias"):
            own = convolution.get_parameter(kind)
            given = state.get(f"{name}.{kind}")
            if not isinstance(given, Tensor) or not _fits(given, own):
                shape = tuple(own.shape)
                raise ValueError(
                    f"{source}: {name}.{kind} is to be {shape} finite numbers, for a VGG without "
                    f"BatchNorm up to {encoder.layer}"
                )
            if place == 0 and kind == "weight":
                given = given[:, list(release.order)]
            own.data.copy_(given)
    encoder.mean.copy_(torch.tensor(release.mean).view(3, 1, 1))
    encoder.std.copy_(torch.tensor(release.std).view(3, 1, 1))
    if release is TORCHVISION:
        encoder.rescale()


def _fits(given: Tensor, own: Tensor) -> bool:
    return given.shape == own.shape and bool(given.isfinite().all())
