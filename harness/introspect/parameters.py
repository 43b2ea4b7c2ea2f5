"""A table of parameters validated against its class: coerced, defaults filled in, files hashed,
facts asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from harness.components import (
    DEFENSE_NEEDS,
    IN_PLACE,
    METRIC_NEEDS,
    Attack,
    Component,
    Defense,
    Metric,
    Part,
    summary,
)
from harness.errors import PluginError, suggest
from harness.introspect import files
from harness.introspect.classes import load, overrides
from harness.introspect.facts import facts_of
from harness.introspect.problems import IDLE, ParameterError, from_validation
from harness.introspect.references import (
    references,
    refuse_components,
    refuse_nested_references,
    request_table,
)
from harness.introspect.wording import as_json, default_of, is_file, is_folder, is_outside_key


def resolve(
    kind: str,
    target: str,
    argument: str | None,
    argument_value: str | None,
    preset: str | None,
    params: dict[str, Any],
    base: str,
    dataset: str | None,
    bases: Mapping[str, str] = MappingProxyType({}),
    in_place: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return what a plan needs of one component; JSON, with the states of the files that the answer
    rests on.

    Relative files are looked up in `bases[parameter]`, else in `base`. Where an attack fills a
    parameter, the answer is `{"unplaced": references}` until it is given `in_place`, as the table
    of a component that was resolved before. Raises ParameterError for parameters that cannot be,
    PluginError for a class that breaks the contract.
    """
    component = load(kind, target)
    try:
        table = expand(component, preset, dataset, params)
    except ParameterError as error:
        raise ParameterError(*error.listed, *_wrong_alone(component, params)) from error
    refuse_components(component, table)
    for name, placed in in_place.items():
        table[name] = {IN_PLACE: placed}
    if argument_value is not None:
        table = _with_argument(component, str(argument), argument_value, table)
    instance = _instance(component, table)
    refuse_unused(instance, params)
    unplaced = {}
    for name, reference in references(instance).items():
        if reference.kind == "attack" and not reference.target:
            unplaced[name] = request_table(reference)
    if unplaced:
        return {"component": {"unplaced": unplaced}, "files": {}}
    folders = {name: Path(bases.get(name, base)) for name in component.model_fields}
    with files.opened() as states:
        instance = _find_files(instance, folders)
        digests = _hash_files(instance)
        description = _describe(instance, digests)
        description["facts"] = asdict(facts_of(instance))
    return {"component": description, "files": states}


def expand(
    component: type[Component], preset: str | None, dataset: str | None, params: Mapping[str, Any]
) -> dict[str, Any]:
    """Lay the preset's parameters under the explicit ones; `bcu/gtsrb` lies over `bcu` on that
    dataset.

    Raises ParameterError for an unknown preset, and for one that only other datasets have.
    """
    if preset is None:
        return dict(params)
    presets = component.presets
    general, slash, _ = preset.partition("/")
    names = [general]
    if slash:
        names.append(preset)
    elif dataset:
        names.append(f"{preset}/{dataset}")
    known = [name for name in names if name in presets]
    if not known or (slash and preset not in presets):
        hint = suggest(preset, sorted(presets)) if presets else "It has none."
        raise ParameterError((("preset",), f"{component.__name__} has no preset {preset!r}", hint))
    table: dict[str, Any] = {}
    for name in known:
        table.update(as_json(presets[name]))
    table.update(params)
    return table


def _wrong_alone(component: type[Component], params: Mapping[str, Any]) -> list[Any]:
    """Return what is wrong with single parameters, whatever the preset would set."""
    wrong = []
    try:
        _instance(component, params)
    except ParameterError as error:
        for path, complaint, hint in error.listed:
            if path and complaint != "is required":
                wrong.append((path, complaint, hint))
    return wrong


def _with_argument(
    component: type[Component], argument: str, value: str, table: dict[str, Any]
) -> dict[str, Any]:
    """Return the table with what stands after the colon of a name such as `timm:resnet18`."""
    if argument not in component.model_fields:
        raise PluginError(
            f"{component.__name__} is registered with argument = {argument!r}, "
            "which it does not have"
        )
    if table.get(argument, value) != value:
        wrong = f"{table[argument]!r} contradicts the name, which says {argument} = {value!r}"
        raise ParameterError(((argument,), wrong, "say it once"))
    return {**table, argument: value}


def _instance(component: type[Component], table: Mapping[str, Any]) -> Component:
    try:
        return component.model_validate_json(json.dumps(table))
    except ValidationError as error:
        raise from_validation(error, component, table) from error


def refuse_unused(instance: Component, given: Mapping[str, Any]) -> None:
    """Raise ParameterError where a parameter that was given does nothing beside the others."""
    unused: Any = instance.unused()
    if not isinstance(unused, Mapping):
        raise PluginError(
            f"{type(instance).__name__}.unused() returned {unused!r}, where reasons by parameter "
            "are expected"
        )
    listed = []
    for name, reason in unused.items():
        if name in given:
            listed.append(((name,), f"{IDLE}: {reason}", "leave it out"))
    if listed:
        raise ParameterError(*listed)


def _find_files(instance: Component, bases: Mapping[str, Path]) -> Component:
    """Return the instance with absolute paths; `bases` are the folders of relative ones by
    parameter.
    """
    absolute: dict[str, Any] = {}
    for name, field in type(instance).model_fields.items():
        value = getattr(instance, name)
        if is_folder(field):
            find = partial(files.locate_folder, base=bases[name])
            absolute[name] = files.lay_out(value, find)
        if is_file(field):
            find = partial(files.locate, name, base=bases[name])
            absolute[name] = files.lay_out(value, find)
    return instance.model_copy(update=absolute)


def _hash_files(instance: Component) -> dict[str, Any]:
    """Return what stands for the instance's files in keys, by parameter."""
    digests: dict[str, Any] = {}
    for name, field in type(instance).model_fields.items():
        if is_file(field) and not is_outside_key(field):
            digests[name] = as_json(files.lay_out(getattr(instance, name), _key_of_file))
    return digests


def _key_of_file(path: Path) -> dict[str, str]:
    return {"sha256": files.sha256(path)}


def _describe(instance: Component, digests: Mapping[str, Any]) -> dict[str, Any]:
    """Return what can be said of a component without asking for its facts."""
    component = type(instance)
    fields = component.model_fields
    used = references(instance)
    refuse_nested_references(instance, used)
    params = instance.model_dump(mode="json", exclude=set(used))
    params.update({name: as_json(reference) for name, reference in used.items()})
    identity = {}
    changed = {}
    for name, field in fields.items():
        if name in used or is_outside_key(field):
            continue
        identity[name] = digests.get(name, params[name])
        if field.is_required() or params[name] != default_of(field):
            changed[name] = identity[name]
    idle = instance.unused()
    requested = {}
    for name, reference in used.items():
        # What does nothing beside the other parameters is not made.
        if not reference.target and name not in idle:
            requested[name] = request_table(reference)
    recipe = None
    if isinstance(instance, Attack):
        recipe = as_json(instance.recipe)
    return {
        "version": component.version,
        "params": {name: params[name] for name in fields},
        "identity": identity,
        "changed": changed,
        "references": requested,
        "needs": _needs(instance),
        "seeded": component.seeded,
        "recipe": recipe,
        "checks": overrides(component, "compatible", Component),
        "summary": summary(component),
        "citation": component.citation,
        "presets": sorted(component.presets),
    }


def _needs(instance: Component) -> list[str]:
    if isinstance(instance, Defense):
        return _granted(instance, DEFENSE_NEEDS)
    if isinstance(instance, Metric):
        return _granted(instance, METRIC_NEEDS)
    if isinstance(instance, (Attack, Part)):
        return sorted(instance.needs)
    return []


def _granted(instance: Defense | Metric, known: AbstractSet[str]) -> list[str]:
    """Return what an instance is granted. Raises PluginError for what there is not."""
    granted = instance.grants()
    unknown = sorted(set(granted) - known)
    if unknown:
        hint = suggest(unknown[0], sorted(known))
        raise PluginError(f"{type(instance).__name__}.grants() names {unknown[0]!r}. {hint}")
    return sorted(granted)
