"""Pretrained: victims that somebody else made enter a grid like any other.

The weights come from a file, the architecture is the grid's `[[model]]`, and the trigger is that of
any attack, or a picture under a mask (`attack = {name = "patch", ...}`). Nothing is trained, so one
victim serves all replicates and the dataset needs no training images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import model_validator
from torch import nn

from harness import Attack, AttackAccess, Context, File, LabelMap, Quantise, Task, Use
from harness.learn import PoisonedSet
from plugins.parts.weights import Weights
from plugins.parts.weights_file import fill, read_tensors


class PretrainedClean(Weights, Attack):
    """Clean network that somebody else trained: weights from a file, no trigger."""

    has_trigger = False
    trains = False
    seeded = False

    def compatible(self, context: Context) -> str | None:
        """Refuse a dataset of as many classes as no layer of the file's network tells apart."""
        return self.misfit(context.task.classes)

    def label_table(self, classes: int) -> list[int]:
        """Attack no class."""
        return [-1] * classes

    def trigger(self, task: Task) -> nn.Module | None:
        """Return None: there is no trigger."""
        return None

    def implant(self, access: AttackAccess, trigger: nn.Module | None) -> nn.Module:
        """Return the network with the file's weights. Raise ValueError, with the names, where they
        do not fit.
        """
        model = access.fresh_model()
        self.load_into(model, access.task.classes)
        return model


class Pretrained(PretrainedClean):
    """Victim that somebody else made: weights from a file, the trigger of any attack.

    Give its entry `established`: a wrong normalisation or a wrong trigger then shows as such, and
    not as a good defense.
    """

    has_trigger = True

    attack: Use[Attack]
    """attack whose trigger and label map the victim answers to: `{name = "badnets", target = 8}`;
    your own picture and mask: `{name = "patch", ...}`
    """
    trigger_state: File | None = None
    """file with the trigger's buffers and parameters under their own names (WaNet's `grid`, a drawn
    `pattern`); none: as the attack draws them
    """

    @model_validator(mode="after")
    def _has_the_trigger(self) -> Self:
        if self.attack.target is None:
            return self
        if not self._inner.has_trigger:
            raise ValueError(
                f"attack {self.attack.name!r} has no trigger; a clean network is `pretrained-clean`"
            )
        if self._inner.training_controlled and self.trigger_state is None:
            raise ValueError(
                f"{self.attack.name!r} makes its trigger together with the victim: "
                "bring that, too, as trigger_state"
            )
        return self

    @property
    def _inner(self) -> Attack:
        return self.attack.component

    def compatible(self, context: Context) -> str | None:
        """Refuse what the trigger's attack refuses, and a wrong number of classes."""
        return self._inner.compatible(context) or super().compatible(context)

    def label_table(self, classes: int) -> list[int]:
        """Map labels as the trigger's attack does."""
        return self._inner.label_table(classes)

    @property
    def labelling(self) -> LabelMap | None:
        """The label map of the trigger's attack."""
        return self._inner.labelling

    @property
    def test_quantise(self) -> Quantise:
        """Rounding of triggered test images: as for the trigger's attack."""
        return self._inner.test_quantise

    def trigger(self, task: Task) -> nn.Module | None:
        """Return the trigger's structure."""
        return self._inner.trigger(task)

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Fill the trigger from the file, or as its attack does."""
        if self.trigger_state is None:
            self._inner.craft(access, trigger)
        else:
            tensors = read_tensors(self.trigger_state)
            fill(trigger, tensors, self.trigger_state)

    def variants(self, trigger: nn.Module) -> Mapping[str, nn.Module]:
        """Return the variants of the trigger's attack."""
        return self._inner.variants(trigger)

    def poison(self, access: AttackAccess, trigger: nn.Module | None) -> PoisonedSet:
        """Return a training set for defenses that need one, poisoned as by the trigger's attack."""
        return self._inner.poison(access, trigger)
