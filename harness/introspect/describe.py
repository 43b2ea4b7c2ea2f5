"""Describing a class in its own words, for `bench show`."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic.fields import FieldInfo

from harness.components import Attack, Dataset, Defense, Metric, Part
from harness.introspect.classes import load
from harness.introspect.wording import (
    as_json,
    default_of,
    expected,
    is_file,
    is_outside_key,
    uses,
)


def describe(kind: str, target: str) -> dict[str, Any]:
    """Return documentation, parameters, presets, needs and source of a class; JSON."""
    component = load(kind, target)
    lines, line = inspect.getsourcelines(component)
    needs = []
    if issubclass(component, (Attack, Defense, Metric, Part)):
        needs = sorted(component.needs)
    recipe = None
    if issubclass(component, Attack):
        recipe = as_json(component.recipe)
    classes: list[str] = []
    if issubclass(component, Dataset):
        classes = list(component.known_classes)
    fields = component.model_fields
    own = inspect.get_annotations(component)
    # The class's own parameters before those that its kind gives to all.
    ordered = sorted(fields, key=lambda name: name not in own)
    return {
        "doc": inspect.cleandoc(component.__doc__ or ""),
        "version": component.version,
        "citation": component.citation,
        "seeded": component.seeded,
        "needs": needs,
        "recipe": recipe,
        "classes": classes,
        "presets": as_json(component.presets),
        "parameters": [_parameter(name, fields[name], name in own) for name in ordered],
        "source": f"{inspect.getsourcefile(component)}:{line}",
        "lines": len(lines),
    }


def _parameter(name: str, field: FieldInfo, own: bool) -> dict[str, Any]:
    return {
        "name": name,
        "type": expected(field),
        "required": field.is_required(),
        "default": default_of(field),
        "meaning": " ".join((field.description or "").split()),
        "own": own,
        "file": is_file(field),
        "in_key": not is_outside_key(field),
        "uses": uses(field),
    }
