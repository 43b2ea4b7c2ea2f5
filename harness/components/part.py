"""Parts: modules made in a stage of their own for a parameter of another component."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, ClassVar

from harness.components.base import Component
from harness.learn.task import Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.access.granted import PartAccess


class Part(Component):
    """Base of all parts: a module, made in a stage of its own, for a parameter of another component
    (a robust model, a decoder).
    """

    needs: ClassVar[AbstractSet[str]] = frozenset()
    """The grants: at most the owner's, or, in an attack, `train`; and `model` to work with the
    cell's architecture. A part that needs nothing is made once for all datasets of the same image
    size and class count.
    """

    @property
    def stand_in(self) -> bool:
        """True where it makes something itself in place of published weights that were not given.

        Every row that stands on it is marked.
        """
        return False

    def build(self, task: Task, model: nn.Module | None) -> nn.Module:
        """Build the structure that the stored state is loaded into; `model` is a network of the
        cell, if `needs` names it.
        """
        raise NotImplementedError

    def make(self, access: PartAccess) -> nn.Module:
        """Return the finished module."""
        raise NotImplementedError

    def shown(self, module: nn.Module, images: Tensor) -> Mapping[str, Tensor]:
        """Return what `bench preview` shows of the finished module beside [0,1] test images (n, c,
        h, w): other such images by caption. Default: nothing.
        """
        return {}
