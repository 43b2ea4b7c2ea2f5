"""Loading a registered class, and what must hold of it before anything is done with it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
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
from harness.vocabulary import KEBAB

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
    """Return the class that `module:Class` names, checked.

    Raises PluginError for a class that breaks the contract. Whatever importing the module raises
    comes out unchanged.
    """
    module, _, name = target.partition(":")
    loaded = getattr(importlib.import_module(module), name, None)
    if loaded is None:
        raise PluginError(f"{target}: the module has no {name}")
    base = BY_KIND[kind]
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise PluginError(
            f"{target} is no {kind}: a subclass of harness.{base.__name__} is expected"
        )
    wrong = faults(kind, loaded)
    if wrong:
        raise PluginError(f"{target}: {'; '.join(wrong)}")
    return loaded


def faults(kind: str, component: type[Component]) -> list[str]:
    """Return what is wrong with a class, in sentences; nothing for a sound one."""
    return [
        *_field_faults(kind, component),
        *_method_faults(kind, component),
        *_needs_faults(kind, component),
        *_attribute_faults(component),
        *_preset_faults(component),
    ]


def overrides(component: type[Component], method: str, base: type[Component]) -> bool:
    """Tell whether a class has its own version of a method of `base`."""
    return getattr(component, method) is not getattr(base, method)


def _field_faults(kind: str, component: type[Component]) -> list[str]:
    base = BY_KIND[kind]
    wrong = []
    for name in component.model_fields:
        reason = name_is_reserved(name)
        if reason is None and name in dir(base) and name not in base.model_fields:
            reason = f"every {kind} has a member of that name"
        if reason is not None:
            wrong.append(f"no parameter can be called {name!r}: {reason}")
    return wrong


def _method_faults(kind: str, component: type[Component]) -> list[str]:
    if kind == "metric":
        own_score = overrides(component, "score", Metric)
        own_measure = overrides(component, "measure", Metric)
        if own_score == own_measure:
            return ["a metric has either score() or measure()"]
        return []
    must = _MUST[kind]
    if kind == "attack":
        # An attack without a trigger has nothing to stamp; one that trains the victim itself may
        # poison nothing.
        assert issubclass(component, Attack)
        if not component.has_trigger:
            must = ()
    missing = [method for method in must if not overrides(component, method, BY_KIND[kind])]
    if not missing:
        return []
    listed = " and no ".join(f"{method}()" for method in missing)
    return [f"it has no {listed}"]


def _needs_faults(kind: str, component: type[Component]) -> list[str]:
    allowed = _NEEDS.get(kind)
    if allowed is None:
        return []
    needs: Any = getattr(component, "needs", ())
    if isinstance(needs, str) or not all(isinstance(need, str) for need in needs):
        return [
            f'needs = {needs!r} is not a set of strings, such as {{"victim", "clean-labelled"}}'
        ]
    unknown = sorted(set(needs) - allowed)
    return [f"needs names {need!r}. {suggest(need, sorted(allowed))}" for need in unknown]


def _attribute_faults(component: type[Component]) -> list[str]:
    # What a plugin declared may be of any type.
    version: Any = component.version
    seeded: Any = component.seeded
    citation: Any = component.citation
    wrong = []
    if type(version) is not int or version < 1:
        wrong.append(f"version = {version!r} is not a whole number from 1 on")
    if not isinstance(seeded, bool):
        wrong.append(f"seeded = {seeded!r} is not True or False")
    if not isinstance(citation, str):
        wrong.append(f"citation = {citation!r} is not a string")
    return wrong


def _preset_faults(component: type[Component]) -> list[str]:
    presets: Any = component.presets
    if not isinstance(presets, Mapping):
        return [f"presets = {presets!r} is not a table of tables"]
    fields = list(component.model_fields)
    wrong = []
    for name, table in presets.items():
        if not _is_preset_name(name):
            wrong.append(f'preset {name!r} is not called like "bcu" or "bcu/gtsrb"')
            continue
        if not isinstance(table, Mapping):
            wrong.append(f"preset {name!r} is not a table of parameters")
            continue
        unknown = sorted(set(table) - set(fields))
        if unknown:
            wrong.append(f"preset {name!r} sets {unknown[0]!r}. {suggest(unknown[0], fields)}")
    return wrong


def _is_preset_name(name: Any) -> bool:
    if not isinstance(name, str):
        return False
    return all(KEBAB.fullmatch(word) for word in name.split("/", 1))
