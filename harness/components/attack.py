"""Attacks, which turn a model into a victim."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from harness.components.base import Component, Context
from harness.components.facts import LabelMap
from harness.learn.rules import (
    NOT_ATTACKED,
    ONE_TARGET,
    BatchStamping,
    LabelMapKind,
    PoisonRule,
    Quantise,
    When,
    attacked_of,
    label_table,
)
from harness.learn.task import Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.access.granted import AttackAccess
    from harness.learn.poisoning import PoisonedSet


LabelTable = tuple[Annotated[int, Field(ge=NOT_ATTACKED)], ...]
"""A label map as a list: for each class its label under the trigger, or -1."""


class Attack(Component):
    """Base of all attacks: data-poisoning if the host trains the victim, training-controlled if the
    attack overrides `implant`.

    Stage `poison` runs `trigger`, `craft` and, for a data-poisoning attack, `poison`; stage
    `victim` runs `implant`. The trigger's state is saved again after `implant`, which may have
    trained it. A training-controlled attack's `poison` runs only where an in-training defense asks
    for a training set, with the finished trigger.
    """

    needs: ClassVar[AbstractSet[str]] = frozenset()
    """`model`, where `craft` or `poison` works against the cell's architecture: one poisoned set
    for each model then.
    """

    has_trigger: ClassVar[bool] = True
    """False for the attack that is none: no triggered test set, no ASR."""
    trains: ClassVar[bool] = True
    """False where the victim comes from elsewhere: its dataset may have no training images then."""
    recipe: ClassVar[Mapping[str, Any] | str | None] = None
    """The attack's own schedule (fields of `Recipe`, or a recipe's name); goes before `[training]
    recipe`.
    """

    def label_table(self, classes: int) -> list[int]:
        """Return for each true label the label its triggered images should get; -1 where the class
        is not attacked.
        """
        raise NotImplementedError

    def trigger(self, task: Task) -> nn.Module | None:
        """Build the structure of the trigger: it maps [0,1] NCHW batches to triggered ones. Its
        state is filled by `craft`.
        """
        raise NotImplementedError

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Fill the trigger's parameters and buffers (draw, optimise, read). Default: nothing to
        fill.
        """

    def poison(self, access: AttackAccess, trigger: nn.Module | None) -> PoisonedSet:
        """Return the poisoned part of the training set."""
        raise NotImplementedError

    def implant(self, access: AttackAccess, trigger: nn.Module | None) -> nn.Module:
        """Train the victim. Default: the host's `fit` on the poisoned set."""
        return access.fit_poisoned(trigger)

    def variants(self, trigger: nn.Module) -> Mapping[str, nn.Module]:
        """Return further triggers by name whose predictions are stored too (WaNet's noise mode).
        Default: none.
        """
        return {}

    @property
    def test_quantise(self) -> Quantise:
        """The way a triggered test image returns to uint8 before a model sees it; "none": it stays
        float.
        """
        return "truncate"

    @property
    def labelling(self) -> LabelMap | None:
        """The label map in words, for `Traits.facts`; None where it has none."""
        return None

    @property
    def batch_stamping(self) -> BatchStamping | None:
        """The stamping that `fit` does in each batch; None where images are stamped beforehand."""
        return None

    @property
    def training_controlled(self) -> bool:
        """True if the attack trains the victim itself; its exported training set is then stamped
        afterwards.
        """
        return type(self).implant is not Attack.implant


class TargetedAttack(Attack):
    """An attack with a target label, or one for each class; `label_table` follows from them."""

    target: Annotated[int, Field(ge=0)] = 0
    """the target label"""
    label_map: LabelMapKind | LabelTable = "all-to-one"
    """which label a triggered image of class y should get: target; (y+1) mod K; target for the
    classes in `sources`; or, of a list with one label for each class, that of y, -1 where y is not
    attacked
    """
    sources: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """attacked classes of a source-specific label map"""

    @property
    def has_one_target(self) -> bool:
        """True if every attacked image should get the label `target`."""
        return self.label_map in ONE_TARGET

    def label_table(self, classes: int) -> list[int]:
        """See `Attack.label_table`. Raises ValueError where target, sources or labels of the map
        are no classes of the task, or the map has not one for each.
        """
        return label_table(self.label_map, self.target, self.sources, classes)

    @property
    def labelling(self) -> LabelMap | None:
        """See `Attack.labelling`."""
        if isinstance(self.label_map, tuple):
            return LabelMap("table", None, attacked_of(self.label_map), self.label_map)
        target = self.target if self.has_one_target else None
        return LabelMap(self.label_map, target, self.sources)

    def unused(self) -> Mapping[str, str]:
        """See `Component.unused`: `target`, where labels are mapped without it."""
        if self.has_one_target:
            return {}
        if self.label_map == "all-to-all":
            return {"target": 'label_map = "all-to-all" has no target'}
        return {"target": "label_map lists the label of every class"}

    @field_validator("target", mode="before")
    @classmethod
    def _is_one_label(cls, target: Any) -> Any:
        if isinstance(target, (list, tuple)):
            raise ValueError(
                "it is one label; several targets are a label_map with the label of every class, "
                "such as [0, 0, 1, 1] where there are 4"
            )
        return target

    @model_validator(mode="after")
    def _names_its_sources(self) -> Self:
        if isinstance(self.label_map, tuple) and self.sources:
            raise ValueError(
                'sources go together with label_map = "source-specific"; '
                "a list has -1 for each class that is not attacked"
            )
        if (self.label_map == "source-specific") != bool(self.sources):
            raise ValueError('label_map = "source-specific" and sources go together')
        if set(self.sources) == {self.target}:
            raise ValueError(
                f"sources names the target, {self.target}, and no other class: its images have the "
                "attacker's label already, so that nothing is attacked"
            )
        return self

    @model_validator(mode="after")
    def _maps_a_class_to_another(self) -> Self:
        if not isinstance(self.label_map, tuple):
            return self
        for label, mapped in enumerate(self.label_map):
            if mapped not in (label, NOT_ATTACKED):
                return self
        raise ValueError(
            "label_map gives each class its own label or -1, so that nothing is attacked"
        )

    def compatible(self, context: Context) -> str | None:
        """Return why the label map is none of the task's; None where it is."""
        try:
            self.label_table(context.task.classes)
        except ValueError as error:
            return str(error)
        return None


class PoisoningAttack(TargetedAttack):
    """An attack with the usual parameters of data poisoning, from which `poison` follows."""

    poison_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """share of `rate_of` that is poisoned"""
    rate_of: Literal["train", "eligible"] = "train"
    """what `poison_rate` is a share of: the training set, or its eligible images"""
    eligible: Literal["all", "non-target", "target"] = "all"
    """which images may be poisoned: those of attacked classes; those among them that have not the
    attacker's label already; those of the target
    """
    order: Literal["random", "first"] = "random"
    """which of them are: a prefix of the replicate's permutation, or the first in dataset order"""
    add: bool = False
    """add poisoned copies and keep the originals, instead of replacing them"""
    quantise: Quantise = "truncate"
    """how a stamped image returns to uint8; "none" keeps floats (only with `when` after loading)"""
    when: When = "dataset"
    """stamp once before training, or each batch before or after augmentation"""
    clean_label: ClassVar[bool] = False
    """True where poisoned images keep their labels."""

    def unused(self) -> Mapping[str, str]:
        """See `Component.unused`: `eligible` may speak of a target that no image is mapped to."""
        if self.eligible == "target":
            return {}
        return super().unused()

    @property
    def test_quantise(self) -> Quantise:
        """Test images are stamped as training images are."""
        return self.quantise

    @model_validator(mode="after")
    def _keeps_labels_for_one_target(self) -> Self:
        if self.clean_label and not self.has_one_target:
            raise ValueError(
                "a clean-label attack poisons images of one target, which keep their labels: "
                'label_map must be "all-to-one" or "source-specific"'
            )
        return self

    @model_validator(mode="after")
    def _poisons_images_of_a_target(self) -> Self:
        if self.eligible == "target" and isinstance(self.label_map, tuple):
            raise ValueError(
                'eligible = "target" is of one class, and a label_map that is a list has no one '
                "target; it has -1 for each class that is not attacked"
            )
        return self

    @model_validator(mode="after")
    def _keeps_floats_only_in_batches(self) -> Self:
        if self.quantise == "none" and self.when == "dataset":
            raise ValueError(
                'quantise = "none" keeps floats, which a uint8 training set cannot: '
                'use when = "before-augment"'
            )
        return self

    @property
    def batch_stamping(self) -> BatchStamping | None:
        """See `Attack.batch_stamping`."""
        if self.when == "dataset":
            return None
        return BatchStamping(self.when, self.quantise)

    def compatible(self, context: Context) -> str | None:
        """Refuse a rate that rounds to no image, too."""
        count = context.task.train_count
        known = count > 0 and self.rate_of == "train"
        if known and self.poison_rate > 0 and int(self.poison_rate * count + 0.5) == 0:
            return f"poison_rate {self.poison_rate:g} of {count} images poisons none of them"
        return super().compatible(context)

    def rule(self, classes: int) -> PoisonRule:
        """Return the rule by which images of a task with `classes` classes are poisoned."""
        return PoisonRule(
            poison_rate=self.poison_rate,
            rate_of=self.rate_of,
            eligible=self.eligible,
            order=self.order,
            target=self.target,
            label_table=tuple(self.label_table(classes)),
            clean_label=self.clean_label,
        )

    # The process that plans reads these classes too, and it imports no torch.

    def stamp(
        self, access: AttackAccess, trigger: nn.Module, images: Tensor, labels: Tensor
    ) -> Tensor:
        """Return the poisoned version of training images (uint8 NHWC, with their true labels).

        Default: the trigger, quantised. For attacks that poison with something else than they test
        with (clean-label attacks perturb first).
        """
        from harness.learn.poisoning import stamp

        return stamp(trigger, images, "truncate" if self.quantise == "none" else self.quantise)

    def poison(self, access: AttackAccess, trigger: nn.Module | None) -> PoisonedSet:
        """Return the images that the base parameters select, stamped and relabelled."""
        from harness.learn.poisoning import poison

        assert trigger is not None

        def stamped(images: Tensor, labels: Tensor) -> Tensor:
            return self.stamp(access, trigger, images, labels)

        rule = self.rule(access.task.classes)
        return poison(access.train, rule, access.selection(), stamped, add=self.add)
