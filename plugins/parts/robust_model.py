"""The network that adversarial images are made on, itself trained on adversarial images."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar

from torch import nn

from harness import Part, PartAccess, Task
from plugins.parts.pgd import AdversarialTraining
from plugins.parts.ranges import Count


class RobustModel(AdversarialTraining, Part):
    """The cell's architecture, trained by its recipe on PGD images of the attacker's clean set."""

    citation = (
        "Madry, Makelov, Schmidt, Tsipras, Vladu: "
        "Towards Deep Learning Models Resistant to Adversarial Attacks"
    )
    needs: ClassVar[AbstractSet[str]] = frozenset({"train", "model"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Wong, Rice, Kolter, ICLR 2020: one large step from a random start, at a fifth of the price
        # of ten.
        "fast": {"steps": 1, "step": 10.0},
    }

    epochs: Count | None = None
    """passes over the training images; none: as the cell's recipe says"""

    def build(self, task: Task, model: nn.Module | None) -> nn.Module:
        """Return the cell's network as it is."""
        assert model is not None
        return model

    def make(self, access: PartAccess) -> nn.Module:
        """Train a fresh network. Raises `Diverged` where its loss does."""
        model = access.fresh_model()
        length: dict[str, Any] = {}
        if self.epochs is not None:
            length = {"epochs": self.epochs, "steps": None}
        perturb = self.perturbing(access, model)
        access.fit(model, access.train(), after_augment=perturb, **length)
        return model
