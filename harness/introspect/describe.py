"""What a class says of itself, for `bench show`."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic.fields import FieldInfo

from harness.components import Attack, Component, Defense, Metric, Part
from harness.introspect.classes import load
from harness.introspect.wording import as_json, default_of, is_file, is_outside_key, uses, wanted


def describe(kind: str, target: str) -> dict[str, Any]:
    """Documentation, parameters, presets, needs and source of a class; JSON."""
    component = load(kind, target)
    lines, line = inspect.getsourcelines(component)
    return {
        "doc": inspect.cleandoc(component.__doc__ or ""),
        "version": component.version,
        "citation": component.citation,
        "seeded": component.seeded,
        "needs": sorted(component.needs)
        if issubclass(component, (Attack, Defense, Metric, Part))
        else [],
        "recipe": as_json(component.recipe) if issubclass(component, Attack) else None,
        "presets": as_json(component.presets),
        "parameters": [_parameter(component, name, field) for name, field in _ordered(component)],
        "source": f"{inspect.getsourcefile(component)}:{line}",
        "lines": len(lines),
    }


def _ordered(component: type[Component]) -> list[tuple[str, FieldInfo]]:
    """The class's own parameters before those that its kind gives to all."""
    own = set(inspect.get_annotations(component))
    return sorted(component.model_fields.items(), key=lambda item: item[0] not in own)


def _parameter(component: type[Component], name: str, field: FieldInfo) -> dict[str, Any]:
    return {
        "name": name,
        "wanted": wanted(field),
        "required": field.is_required(),
        "default": default_of(field),
        "meaning": " ".join((field.description or "").split()),
        "own": name in inspect.get_annotations(component),
        "file": is_file(field),
        "in_key": not is_outside_key(field),
        "uses": uses(field),
    }
