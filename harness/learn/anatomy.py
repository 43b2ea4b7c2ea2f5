"""The parts of a network by name, so that a method works on any architecture. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from harness.learn.task import Task

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Anatomy:
    """Names (as in `named_modules`) of a classifier's parts.

    `stages` go from shallow to deep; `features` outputs the input of `head` (the last linear
    layer), up to flattening; `blocks` are the residual blocks in order (stages, where there are
    none), for methods that cut within a stage.
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


class Architecture(Protocol):
    """A network that can be built and taken apart: what a `Model` component offers to a method."""

    def build(self, task: Task) -> nn.Module:
        """Return a freshly initialised network; the draws come from torch's global generator."""
        ...

    def anatomy(self, module: nn.Module) -> Anatomy:
        """Name the parts of `module`. Raises Incompatible where the architecture has none."""
        ...

    def units(self, module: nn.Module) -> Iterable[Unit]:
        """List the prunable channels of `module`."""
        ...
