"""Parameters that are components: finding them, and refusing forms that a grid cannot have."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from harness.components import IN_PLACE, Component, Reference
from harness.errors import PluginError
from harness.introspect.problems import ParameterError
from harness.introspect.wording import as_json, uses


def references(instance: Component) -> dict[str, Reference]:
    """Return the parameters of a component that are components."""
    parameters = {}
    for name in type(instance).model_fields:
        value = getattr(instance, name)
        if isinstance(value, Reference):
            parameters[name] = value
    return parameters


def request_table(reference: Reference) -> dict[str, Any]:
    """Return the table that the parent resolves a component by."""
    return {
        "kind": reference.kind,
        "name": reference.name,
        "preset": reference.preset,
        "params": as_json(reference.params),
    }


def refuse_components(component: type[Component], table: Mapping[str, Any]) -> None:
    """Refuse a component in place: that form is the host's, and a grid names what it means.

    Raises ParameterError.
    """
    for name, field in component.model_fields.items():
        value = table.get(name)
        if uses(field) and isinstance(value, Mapping) and set(value) == {IN_PLACE}:
            wrong = f"a component is named, not given as {IN_PLACE!r}"
            hint = f'{name} = "..." or {name} = {{name = "...", <its parameters>}}'
            raise ParameterError(((name,), wrong, hint))


def refuse_nested_references(instance: Component, direct: Collection[str]) -> None:
    """Refuse components in lists; `direct` are the parameters that are components themselves.

    Raises PluginError.
    """
    for name, field in type(instance).model_fields.items():
        if uses(field) and name not in direct and getattr(instance, name) is not None:
            raise PluginError(
                f"{type(instance).__name__}.{name}: a component as a parameter is Use[...] "
                "or Use[...] | None, not in a list"
            )
