"""The two questions of a plan and a report that only a component's own code can answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.components import Context, Metric, Task, Traits, load_component
from harness.errors import PluginError


def compatible(target: str, params: Mapping[str, Any], context: Mapping[str, Any]) -> str | None:
    """The reason why a component cannot work in a context (as JSON), or None."""
    reason: Any = load_component({"target": target, "params": params}).compatible(
        read_context(context)
    )
    if reason is not None and not isinstance(reason, str):
        raise PluginError(
            f"{target}: compatible() returned {reason!r}, where a reason or None is wanted"
        )
    return reason


def combine(target: str, params: Mapping[str, Any], values: Sequence[float]) -> dict[str, float]:
    """What a metric makes of a group of replicates: finite numbers by name."""
    metric = load_component({"target": target, "params": params})
    assert isinstance(metric, Metric)
    combined: Any = metric.combine(list(values))
    if not isinstance(combined, Mapping) or not combined:
        raise PluginError(
            f"{target}: combine() returned {combined!r}, where numbers by name are wanted"
        )
    numbers = {str(name): float(value) for name, value in combined.items()}
    if strange := [name for name, value in numbers.items() if not math.isfinite(value)]:
        what = f"{numbers[strange[0]]} for {strange[0]!r}"
        raise PluginError(f"{target}: combine() gave {what}, where a finite number is wanted")
    return numbers


def read_context(table: Mapping[str, Any]) -> Context:
    """The context that `dataclasses.asdict` made a table of."""
    traits = {
        role: Traits(**table[role]) for role in ("model", "attack", "defense") if table.get(role)
    }
    return Context(task=Task(**table["task"]), **traits)
