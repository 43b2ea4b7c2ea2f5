"""A table of parameters validated against its class: coerced, defaults filled in, files hashed,
facts asked.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from harness.components import (
    DEFENSE_NEEDS,
    IN_PLACE,
    Attack,
    Component,
    Dataset,
    Defense,
    Metric,
    Model,
    Part,
    Reference,
    summary,
)
from harness.errors import PluginError, suggest
from harness.introspect import files
from harness.introspect.classes import load, overrides
from harness.introspect.problems import ParameterError, from_validation
from harness.introspect.wording import as_json, default_of, is_file, is_folder, is_outside_key, uses


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
    """What a plan needs of one component; JSON, with the stamps of the files that the answer rests
    on.

    Relative files are looked up in `bases[parameter]`, else in `base`. Where an attack fills a
    parameter, the answer is `{"wanted": references}` until it is given `in_place`, as the table of
    a component that was resolved before. Raises ParameterError for parameters that cannot be,
    PluginError for a class that breaks the contract.
    """
    component = load(kind, target)
    table = expand(component, preset, dataset, params)
    _refuse_components(component, table)
    table |= {name: {IN_PLACE: one} for name, one in in_place.items()}
    if argument_value is not None:
        table = _with_argument(component, str(argument), argument_value, table)
    instance = _instance(component, table)
    if wanted := {
        name: one
        for name, one in references(instance).items()
        if one.kind == "attack" and not one.target
    }:
        return {"component": {"wanted": _requests(wanted)}, "files": {}}
    read: dict[str, Any] = {}
    instance, digests = _find_files(instance, lambda name: Path(bases.get(name, base)), read)
    answer = _describe(instance, digests, component)
    with files.opened() as stamps:
        answer["facts"] = _facts(instance)
    return {"component": answer, "files": {**read, **stamps}}


def expand(
    component: type[Component], preset: str | None, dataset: str | None, params: Mapping[str, Any]
) -> dict[str, Any]:
    """The preset's parameters under the explicit ones; `bcu/gtsrb` lies over `bcu` on that dataset.

    Raises ParameterError for an unknown preset, and for one that only other datasets have.
    """
    if preset is None:
        return dict(params)
    names = [
        preset.partition("/")[0],
        preset,
        *([f"{preset}/{dataset}"] if dataset and "/" not in preset else []),
    ]
    found = [name for name in dict.fromkeys(names) if name in component.presets]
    if not found or ("/" in preset and preset not in component.presets):
        hint = suggest(preset, sorted(component.presets)) if component.presets else "It has none."
        raise ParameterError((("preset",), f"{component.__name__} has no preset {preset!r}", hint))
    table: dict[str, Any] = {}
    for name in found:
        table |= as_json(component.presets[name])
    return {**table, **params}


def _with_argument(
    component: type[Component], argument: str, value: str, table: dict[str, Any]
) -> dict[str, Any]:
    if argument not in component.model_fields:
        raise PluginError(
            f"{component.__name__} is registered with argument = {argument!r}, which it does not have"
        )
    if table.get(argument, value) != value:
        what = f"{table[argument]!r} contradicts the name, which says {argument} = {value!r}"
        raise ParameterError(((argument,), what, "say it once"))
    return {**table, argument: value}


def _instance(component: type[Component], table: Mapping[str, Any]) -> Component:
    try:
        return component.model_validate_json(json.dumps(table))
    except ValidationError as error:
        raise from_validation(error, component, table) from error


def _find_files(
    instance: Component, base: Callable[[str], Path], read: dict[str, Any]
) -> tuple[Component, dict[str, Any]]:
    """The instance with absolute paths, and what stands for its files in keys."""
    found: dict[str, Any] = {}
    digests: dict[str, Any] = {}
    for name, field in type(instance).model_fields.items():
        if is_folder(field):
            found[name] = files.lay_out(
                getattr(instance, name), partial(files.locate_folder, base=base(name))
            )
        if is_file(field):
            found[name] = files.lay_out(
                getattr(instance, name), partial(files.locate, name, base=base(name))
            )
            if is_outside_key(field):
                continue
            with files.opened() as stamps:
                digests[name] = as_json(
                    files.lay_out(found[name], lambda path: {"sha256": files.sha256(path)})
                )
            read |= stamps
    return instance.model_copy(update=found), digests


def _describe(
    instance: Component, digests: Mapping[str, Any], component: type[Component]
) -> dict[str, Any]:
    fields = component.model_fields
    found = references(instance)
    _refuse_nested_references(instance, found)
    plain = instance.model_dump(mode="json", exclude=set(found))
    params = {name: as_json(found[name]) if name in found else plain[name] for name in fields}
    keyed = [name for name in fields if name not in found and not is_outside_key(fields[name])]
    identity = {name: digests.get(name, params[name]) for name in keyed}
    return {
        "version": component.version,
        "params": params,
        "identity": identity,
        "changed": {
            name: identity[name]
            for name in keyed
            if fields[name].is_required() or params[name] != default_of(fields[name])
        },
        "references": _requests({name: one for name, one in found.items() if not one.target}),
        "needs": _needs(instance),
        "seeded": component.seeded,
        "recipe": as_json(instance.recipe) if isinstance(instance, Attack) else None,
        "checks": overrides(component, "compatible", Component),
        "summary": summary(component),
        "citation": component.citation,
        "presets": sorted(component.presets),
    }


def references(instance: Component) -> dict[str, Reference]:
    """The parameters of a component that are components."""
    return {
        name: value
        for name in type(instance).model_fields
        if isinstance(value := getattr(instance, name), Reference)
    }


def _requests(found: Mapping[str, Reference]) -> dict[str, Any]:
    """What the parent resolves them by."""
    return {
        name: {
            "kind": one.kind,
            "name": one.name,
            "preset": one.preset,
            "params": as_json(one.params),
        }
        for name, one in found.items()
    }


def _refuse_components(component: type[Component], table: Mapping[str, Any]) -> None:
    """The form of a component in place is the host's: a grid names what it wants."""
    for name, field in component.model_fields.items():
        if (
            uses(field)
            and isinstance(value := table.get(name), Mapping)
            and set(value) == {IN_PLACE}
        ):
            hint = f'{name} = "..." or {name} = {{name = "...", <its parameters>}}'
            raise ParameterError(
                ((name,), f"a component is named, not given as {IN_PLACE!r}", hint)
            )


def _refuse_nested_references(instance: Component, found: Mapping[str, Reference]) -> None:
    for name, field in type(instance).model_fields.items():
        if uses(field) and name not in found and getattr(instance, name) is not None:
            where = f"{type(instance).__name__}.{name}"
            raise PluginError(
                f"{where}: a component as a parameter is Use[...] or Use[...] | None, not in a list"
            )


def _needs(instance: Component) -> list[str]:
    if isinstance(instance, Defense):
        granted = instance.grants()
        if unknown := sorted(set(granted) - DEFENSE_NEEDS):
            hint = suggest(unknown[0], sorted(DEFENSE_NEEDS))
            raise PluginError(f"{type(instance).__name__}.grants() names {unknown[0]!r}. {hint}")
        return sorted(granted)
    return sorted(instance.needs) if isinstance(instance, (Attack, Metric, Part)) else []


def _facts(instance: Component) -> dict[str, Any]:
    """What the plan must know that only the class can say."""
    own = type(instance)
    if isinstance(instance, Attack):
        return {
            "has_trigger": instance.has_trigger,
            "training_controlled": instance.training_controlled,
            "label_map": instance.labelling,
            "trains": instance.trains,
        }
    if isinstance(instance, Model):
        return {
            "anatomy": overrides(own, "anatomy", Model),
            "units": overrides(own, "units", Model),
        }
    if isinstance(instance, Dataset):
        return _dataset_facts(instance)
    if isinstance(instance, Metric):
        return {
            "unit": instance.unit,
            "higher_is_better": instance.higher_is_better,
            "combines": overrides(own, "combine", Metric),
            "measured": overrides(own, "measure", Metric),
        }
    return {"rebuilds": overrides(own, "rebuild", Defense)} if isinstance(instance, Defense) else {}


def _dataset_facts(instance: Dataset) -> dict[str, Any]:
    try:
        facts = instance.facts()
    except (ValueError, OSError) as error:
        # The interface says that such an error tells the command that mends it.
        raise ParameterError(((), str(error), "")) from error
    return dataclasses.asdict(facts)
