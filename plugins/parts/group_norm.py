"""GroupNorm in the place of BatchNorm, for training in which images must not know of each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.learn import NORMS


class Grouped(nn.GroupNorm):
    """GroupNorm that goes on as the BatchNorm it replaces did: timm's carry dropout and activation
    as children.
    """

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, ...) to the same shape."""
        images = super().forward(images)
        for child in self.children():
            images = child(images)
        return images


def without_batchnorm(model: nn.Module, groups: int) -> nn.Module:
    """The network, changed in place: every BatchNorm is a GroupNorm under the same name, with its
    scales and shifts.

    Each has up to `groups` groups (`groups_of`). Scales are kept since some networks start blocks
    with 0.
    """
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, NORMS):
            continue
        if not name:
            raise ValueError("a BatchNorm layer alone is no network")
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, _grouped(layer, groups))
    return model


def groups_of(channels: int, most: int) -> int:
    """The largest divisor of `channels` that is no more than `most` and leaves two channels a
    group.

    A group of one channel would lose the channel's mean, which is all that there is behind a global
    pooling.
    """
    return max(
        number
        for number in range(1, max(1, min(most, channels // 2)) + 1)
        if channels % number == 0
    )


@torch.no_grad()
def _grouped(old: nn.Module, groups: int) -> Grouped:
    assert isinstance(old, NORMS)
    new = Grouped(
        groups_of(old.num_features, groups), old.num_features, eps=old.eps, affine=old.affine
    )
    if old.affine:
        new.weight.copy_(old.weight)
        new.bias.copy_(old.bias)
        new.to(old.weight.device)
    for name, child in old.named_children():
        new.add_module(name, child)
    return new.train(old.training)
