"""The network that an attacker trains first: the cell's architecture on clean images."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, ClassVar

from harness import Part, Task

if TYPE_CHECKING:
    from torch import nn

    from harness import PartAccess


class CleanModel(Part):
    """The cell's architecture, trained by the cell's recipe on the attacker's clean images."""

    needs: ClassVar[AbstractSet[str]] = frozenset({"train", "model"})

    def build(self, task: Task, model: nn.Module | None) -> nn.Module:
        """Return the cell's network as it is."""
        assert model is not None
        return model

    def make(self, access: PartAccess) -> nn.Module:
        """Train a fresh network. Raises `Diverged` where its loss does."""
        model = access.fresh_model()
        access.fit(model, access.train())
        return model
