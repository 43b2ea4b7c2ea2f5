"""Layers that every model shares, and the units that pruning defenses work on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.learn.anatomy import Unit

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Normalise(nn.Module):
    """(x - mean) / std per channel, of [0,1] images (n, c, h, w); `mean` and `std` hold one number,
    or one for each channel.

    The numbers are settings of the model, so they are buffers outside its saved state.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if not (len(mean) in (1, 3) and len(std) in (1, 3)):
            raise ValueError(f"mean and std hold 1 or 3 numbers, not {len(mean)} and {len(std)}")
        if min(std) <= 0:
            raise ValueError(f"std must be above 0, not {list(std)}")
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return images of the same shape."""
        return (images - self.mean) / self.std


def prunable_units(module: nn.Module) -> list[Unit]:
    """Return every BatchNorm layer; in a net without any, every convolution and linear layer but
    the last, the classifier.
    """
    norms = []
    layers = []
    for name, part in module.named_modules():
        if not name:  # the net itself
            continue
        if isinstance(part, NORMS):
            norms.append(Unit(name, part.num_features))
        elif isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            layers.append(Unit(name, part.out_channels))
        elif isinstance(part, nn.Linear):
            layers.append(Unit(name, part.out_features))
    return norms or layers[:-1]
