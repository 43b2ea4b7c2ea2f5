"""Models: classifiers, and where their parts are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.components.base import Component, Context, Task

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Anatomy:
    """Names (as in `named_modules`) of a classifier's parts, so that methods work on any net.

    `stages` go from shallow to deep; `features` outputs what `head` (the last linear layer) takes,
    up to flattening; `blocks` are the residual blocks in order (stages, where they have none), for
    methods that cut within a stage.
    """

    stem: str
    stages: tuple[str, ...]
    features: str
    head: str
    blocks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unit:
    """Prunable channels of one layer: `module` (BatchNorm, else convolution or linear) with `count`
    outputs.
    """

    module: str
    count: int


class Model(Component):
    """A classifier. Normalisation is inside: it takes [0,1] floats."""

    mean: tuple[float, ...] | None = None
    """per-channel mean subtracted from [0,1] inputs; none: no normalisation"""
    std: tuple[float, ...] | None = None
    """per-channel standard deviation that inputs are divided by"""

    def compatible(self, context: Context) -> str | None:
        """`mean` and `std` go together, `std` is positive, and both have one value per image
        channel.
        """
        if (self.mean is None) != (self.std is None):
            return "mean and std go together: give both, or neither for no normalisation"
        if self.mean is None or self.std is None:
            return None
        channels = context.task.channels
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                return f"{name} has {len(values)} values, but images of {context.task.dataset} have {channels} channels"
        if min(self.std) <= 0:
            return f"std must be positive in every channel, not {min(self.std)}"
        return None

    def build(self, task: Task) -> nn.Module:
        """A freshly initialised network for the task (initialisation draws from torch's global
        generator).
        """
        raise NotImplementedError

    def anatomy(self, module: nn.Module) -> Anatomy:
        """Where its parts are. Raise `Incompatible` (the default does) where the net has no such
        parts.
        """
        from harness.errors import Incompatible

        raise Incompatible(f"model {type(self).__name__} names no anatomy")

    def units(self, module: nn.Module) -> Iterable[Unit]:
        """Its prunable channels. Default: every BatchNorm layer, else convolution and linear layers
        but the last.
        """
        from harness.learn.layers import prunable_units

        return prunable_units(module)
