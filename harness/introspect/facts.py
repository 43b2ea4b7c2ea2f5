"""Asking a component for the facts that a plan must know and only its class can tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.components import (
    AnyFacts,
    Attack,
    AttackFacts,
    Component,
    Dataset,
    DatasetFacts,
    Defense,
    DefenseFacts,
    LabelMap,
    Metric,
    MetricFacts,
    Model,
    ModelFacts,
    Part,
    PartFacts,
)
from harness.errors import PluginError
from harness.introspect.classes import overrides
from harness.introspect.problems import ParameterError


def facts_of(instance: Component) -> AnyFacts:
    """Return the facts of a component.

    Raises ParameterError where a dataset has none with its parameters.
    """
    own = type(instance)
    if isinstance(instance, Attack):
        return AttackFacts(
            has_trigger=instance.has_trigger,
            trains=instance.trains,
            training_controlled=instance.training_controlled,
            label_map=_label_map(instance),
        )
    if isinstance(instance, Model):
        return ModelFacts(
            anatomy=overrides(own, "anatomy", Model), units=overrides(own, "units", Model)
        )
    if isinstance(instance, Dataset):
        return _dataset_facts(instance)
    if isinstance(instance, Metric):
        return MetricFacts(
            unit=instance.unit,
            higher_is_better=instance.higher_is_better,
            combines=overrides(own, "combine", Metric),
            measured=overrides(own, "measure", Metric),
        )
    if isinstance(instance, Defense):
        return DefenseFacts(
            rebuilds=overrides(own, "rebuild", Defense), gives_model=instance.gives_model
        )
    if isinstance(instance, Part):
        return PartFacts(stand_in=instance.stand_in, shown=overrides(own, "shown", Part))
    raise TypeError(f"{type(instance).__name__} is of no kind that has facts")


def _label_map(attack: Attack) -> LabelMap | None:
    labelling: Any = attack.labelling
    if labelling is None or isinstance(labelling, LabelMap):
        return labelling
    raise PluginError(
        f"{type(attack).__name__}.labelling is {labelling!r}, where a LabelMap or None is expected"
    )


def _dataset_facts(dataset: Dataset) -> DatasetFacts:
    try:
        return replace(dataset.facts(), mirrors=dataset.mirrors)
    except (ValueError, OSError) as error:
        # The interface says that such an error tells the command that fixes it.
        raise ParameterError(((), str(error), "")) from error
