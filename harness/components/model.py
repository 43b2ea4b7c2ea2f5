"""Models: classifiers, and where their parts are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.components.base import Component, Context
from harness.errors import Incompatible
from harness.learn.anatomy import Anatomy, Unit
from harness.learn.task import Task

if TYPE_CHECKING:
    from torch import nn


class Model(Component):
    """A classifier. Normalisation is inside: it takes [0,1] floats."""

    mean: tuple[float, ...] | None = None
    """per-channel mean subtracted from [0,1] inputs; none: no normalisation"""
    std: tuple[float, ...] | None = None
    """per-channel standard deviation that inputs are divided by"""

    def compatible(self, context: Context) -> str | None:
        """Check that `mean` and `std` go together, `std` is positive, and both have one value per
        image channel.
        """
        if (self.mean is None) != (self.std is None):
            return "mean and std go together: give both, or neither for no normalisation"
        if self.mean is None or self.std is None:
            return None
        channels = context.task.channels
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                return (
                    f"{name} has {len(values)} values, "
                    f"but images of {context.task.dataset} have {channels} channels"
                )
        if min(self.std) <= 0:
            return f"std must be positive in every channel, not {min(self.std)}"
        return None

    def build(self, task: Task) -> nn.Module:
        """Return a freshly initialised network for the task (initialisation draws from torch's
        global generator).
        """
        raise NotImplementedError

    def anatomy(self, module: nn.Module) -> Anatomy:
        """Return the names of its parts. Raise `Incompatible` (the default does) where the net has
        no such parts.
        """
        raise Incompatible(f"model {type(self).__name__} names no anatomy")

    def units(self, module: nn.Module) -> Iterable[Unit]:
        """Return its prunable channels. Default: every BatchNorm layer, else convolution and linear
        layers but the last.
        """
        from harness.learn.layers import prunable_units  # torch: children alone call this

        return prunable_units(module)
