"""Loading a registered class, and what must hold of it before anything is done with it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from harness.components import (
    ATTACK_NEEDS,
    BY_KIND,
    DEFENSE_NEEDS,
    METRIC_NEEDS,
    PART_NEEDS,
    Attack,
    Component,
    Metric,
)
from harness.errors import PluginError, suggest
from harness.introspect.problems import name_is_reserved
from harness.registry.names import KEBAB

_MUST: Mapping[str, tuple[str, ...]] = {
    "attack": ("label_table", "trigger", "poison"),
    "defense": ("defend",),
    "model": ("build",),
    "dataset": ("facts", "load"),
    "part": ("build", "make"),
}
"""The methods without which a component of a kind can do nothing."""

_NEEDS = {
    "attack": ATTACK_NEEDS,
    "defense": DEFENSE_NEEDS,
    "metric": METRIC_NEEDS,
    "part": PART_NEEDS,
}


def load(kind: str, target: str) -> type[Component]:
    """The class that `module:Class` names, checked. Raises PluginError for a class that breaks the
    contract.

    Whatever importing the module raises comes out as it is.
    """
    module, _, name = target.partition(":")
    found = getattr(importlib.import_module(module), name, None)
    if found is None:
        raise PluginError(f"{target}: the module has no {name}")
    base = BY_KIND[kind]
    if not (isinstance(found, type) and issubclass(found, base)):
        raise PluginError(f"{target} is no {kind}: a subclass of harness.{base.__name__} is wanted")
    if wrong := faults(kind, found):
        raise PluginError(f"{target}: " + "; ".join(wrong))
    return found


def faults(kind: str, component: type[Component]) -> list[str]:
    """What is wrong with a class, in sentences; empty for a sound one."""
    return [
        *_field_faults(kind, component),
        *_method_faults(kind, component),
        *_needs_faults(kind, component),
        *_attribute_faults(component),
    ]


def overrides(component: type[Component], method: str, base: type[Component]) -> bool:
    """Whether a class has its own version of a method of `base`."""
    return getattr(component, method) is not getattr(base, method)


def _field_faults(kind: str, component: type[Component]) -> list[str]:
    base = BY_KIND[kind]
    wrong = []
    for name in component.model_fields:
        if reason := name_is_reserved(name):
            wrong.append(f"no parameter can be called {name!r}: {reason}")
        elif name in dir(base) and name not in base.model_fields:
            wrong.append(
                f"no parameter can be called {name!r}: every {kind} has a member of that name"
            )
    return wrong


def _method_faults(kind: str, component: type[Component]) -> list[str]:
    base = BY_KIND[kind]
    if kind == "metric":
        own = [method for method in ("score", "measure") if overrides(component, method, Metric)]
        return [] if len(own) == 1 else ["a metric has either score() or measure()"]
    must = list(_MUST[kind])
    if kind == "attack":
        # An attack without a trigger has nothing to stamp; one that trains the victim itself may
        # poison nothing.
        assert issubclass(component, Attack)
        must = must if component.has_trigger else []
    missing = [method for method in must if not overrides(component, method, base)]
    return [f"it has no {' and no '.join(f'{method}()' for method in missing)}"] if missing else []


def _needs_faults(kind: str, component: type[Component]) -> list[str]:
    allowed = _NEEDS.get(kind)
    if allowed is None:
        return []
    needs = getattr(component, "needs", ())
    if isinstance(needs, str) or not all(isinstance(need, str) for need in needs):
        return [
            f'needs = {needs!r} is not a set of strings, such as {{"victim", "clean-labelled"}}'
        ]
    return [
        f"needs names {need!r}. {suggest(need, sorted(allowed))}"
        for need in sorted(set(needs) - allowed)
    ]


def _attribute_faults(component: type[Component]) -> list[str]:
    checks: list[tuple[str, Callable[[Any], bool], str]] = [
        ("version", lambda value: type(value) is int and value >= 1, "a whole number from 1 on"),
        ("seeded", lambda value: isinstance(value, bool), "True or False"),
        ("citation", lambda value: isinstance(value, str), "a string"),
    ]
    wrong = [
        f"{name} = {getattr(component, name)!r} is not {right}"
        for name, holds, right in checks
        if not holds(getattr(component, name))
    ]
    return wrong + _preset_faults(component)


def _preset_faults(component: type[Component]) -> list[str]:
    presets: Any = component.presets
    if not isinstance(presets, Mapping):
        return [f"presets = {presets!r} is not a table of tables"]
    wrong = []
    for name, table in presets.items():
        if not isinstance(name, str) or not all(
            KEBAB.fullmatch(word) for word in name.split("/", 1)
        ):
            wrong.append(f'preset {name!r} is not called like "bcu" or "bcu/gtsrb"')
        elif not isinstance(table, Mapping):
            wrong.append(f"preset {name!r} is not a table of parameters")
        elif unknown := sorted(set(table) - set(component.model_fields)):
            wrong.append(
                f"preset {name!r} sets {unknown[0]!r}. {suggest(unknown[0], list(component.model_fields))}"
            )
    return wrong
