"""The two questions of a plan and a report that only a component's own code can answer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from harness.components import (
    AnyFacts,
    AttackFacts,
    Context,
    DefenseFacts,
    Metric,
    ModelFacts,
    Task,
    Traits,
    load_component,
    read_facts,
)
from harness.components.spec import ComponentSpec
from harness.errors import PluginError
from harness.learn.recipes import Recipe

F = TypeVar("F", bound=AnyFacts)


def compatible(target: str, params: Mapping[str, Any], context: Mapping[str, Any]) -> str | None:
    """Return the reason why a component cannot work in a context (as JSON), or None."""
    component = load_component(ComponentSpec(target, params))
    reason: Any = component.compatible(read_context(context))
    if reason is not None and not isinstance(reason, str):
        raise PluginError(
            f"{target}: compatible() returned {reason!r}, where a reason or None is expected"
        )
    return reason


def combine(target: str, params: Mapping[str, Any], values: Sequence[float]) -> dict[str, float]:
    """Return what a metric makes of a group of replicates: finite numbers by name."""
    metric = load_component(ComponentSpec(target, params))
    assert isinstance(metric, Metric)
    combined: Any = metric.combine(list(values))
    if not isinstance(combined, Mapping) or not combined:
        raise PluginError(
            f"{target}: combine() returned {combined!r}, where numbers by name are expected"
        )
    numbers = {str(name): float(value) for name, value in combined.items()}
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise PluginError(
                f"{target}: combine() gave {number} for {name!r}, where a finite number is expected"
            )
    return numbers


def read_context(table: Mapping[str, Any]) -> Context:
    """Read the context that `dataclasses.asdict` made a table of."""
    recipe = table.get("recipe")
    if recipe is not None:
        recipe = Recipe.model_validate_json(json.dumps(recipe))
    return Context(
        task=Task(**table["task"]),
        model=_read_traits(table.get("model"), ModelFacts),
        attack=_read_traits(table.get("attack"), AttackFacts),
        defense=_read_traits(table.get("defense"), DefenseFacts),
        recipe=recipe,
    )


def _read_traits(table: Mapping[str, Any] | None, facts: type[F]) -> Traits[F] | None:
    if table is None:
        return None
    return Traits(table["kind"], table["name"], table["params"], read_facts(facts, table["facts"]))
