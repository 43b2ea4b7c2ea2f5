"""GroupNorm in the place of BatchNorm, for training in which images must not know of each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.learn import NORMS


class Grouped(nn.GroupNorm):
    """GroupNorm that goes on as the BatchNorm it replaces did.

    timm's layers carry dropout and activation as children.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Normalise (n, channels, ...), then apply the children."""
        images = super().forward(images)
        for child in self.children():
            images = child(images)
        return images


def without_batchnorm(model: nn.Module, groups: int) -> nn.Module:
    """Change a network in place: every BatchNorm becomes a GroupNorm under the same name.

    Each has up to `groups` groups (`groups_of`). It keeps scales and shifts, since some networks
    start blocks with a scale of 0.
    """
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, NORMS):
            continue
        if not name:
            raise ValueError("a BatchNorm layer alone is no network")
        parent_name, _, child_name = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, child_name, _grouped(layer, groups))
    return model


def groups_of(channels: int, most: int) -> int:
    """Return the largest divisor of `channels` up to `most` that leaves two channels a group.

    A group of one channel would lose the channel's mean, which is all that there is behind a global
    pooling.
    """
    number = max(1, min(most, channels // 2))
    while channels % number != 0:
        number -= 1
    return number


@torch.no_grad()
def _grouped(old: nn.Module, groups: int) -> Grouped:
    assert isinstance(old, NORMS)
    channels = old.num_features
    number = groups_of(channels, groups)
    new = Grouped(number, channels, eps=old.eps, affine=old.affine)
    if old.affine:
        new.weight.copy_(old.weight)
        new.bias.copy_(old.bias)
        new.to(old.weight.device)
    for name, child in old.named_children():
        new.add_module(name, child)
    return new.train(old.training)
