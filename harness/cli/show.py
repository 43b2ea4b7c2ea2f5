"""`bench show`: a component's parameters and where it comes from; also recipes, and why a plugin is
broken.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.errors import BenchError, PluginError, UnknownName, suggest
from harness.registry.ask import Trouble, ask
from harness.registry.discovery import discover
from harness.registry.names import Broken, Registered, Registry
from harness.vocabulary import KINDS

_WIDTH = 100


def run(args: argparse.Namespace) -> int:
    """Print what `args.words` (`[KIND] NAME`) name. Raises BenchError where that is nothing, or
    several things.
    """
    registry = discover()
    kind, name = _asked(args.words, registry)
    if kind == "plugin":
        lines = _broken(_plugins(registry)[name])
    elif kind == "recipe":
        lines = _recipe(name, registry)
    else:
        lines = _component(registry.find(kind, name))
    for line in lines:
        print(line)
    if kind in KINDS and name in registry.recipes:
        print(f"\nThere is a recipe of that name, too: bench show recipe {name}")
    return 0


def _asked(words: Sequence[str], registry: Registry) -> tuple[str, str]:
    """Return kind and name; the kind may be left out where only one has that name."""
    if len(words) > 2:
        raise BenchError(f"bench show takes [KIND] NAME, not {len(words)} words")
    name = words[-1]
    plugins = _plugins(registry)
    if len(words) == 2:
        kinds = (*KINDS, "recipe", "plugin")
        kind = words[0].removesuffix("s")
        if kind not in kinds:
            raise BenchError(f"unknown kind {words[0]!r}. {suggest(kind, kinds)}")
        if kind == "plugin" and name not in plugins:
            raise UnknownName("broken plugin", name, plugins)
        return kind, name
    kinds_of_name = registry.kinds_of(name)
    if name in plugins:
        kinds_of_name.append("plugin")
    # A paper's recipe often has the name of its method, which is what is meant.
    if not kinds_of_name and name in registry.recipes:
        kinds_of_name.append("recipe")
    if len(kinds_of_name) > 1:
        choices = " or ".join(f"`bench show {kind} {name}`" for kind in kinds_of_name)
        raise BenchError(f"{name!r} names several things: say {choices}")
    if not kinds_of_name:
        components = {entry.name for entry in registry.entries()}
        raise UnknownName("name", name, {*components, *registry.recipes, *plugins})
    return kinds_of_name[0], name


def _plugins(registry: Registry) -> dict[str, Broken]:
    """Return the broken plugins by their entry points."""
    plugins: dict[str, Broken] = {}
    for broken in registry.broken:
        plugins.setdefault(broken.origin.entry_point, broken)
    return plugins


def _broken(broken: Broken) -> Iterator[str]:
    yield f"plugin {broken.origin} is broken: {broken.reason}"
    if broken.traceback:
        yield ""
        yield textwrap.indent(broken.traceback.rstrip(), "  ")


def _recipe(name: str, registry: Registry) -> Iterator[str]:
    recipe = registry.recipe(name)
    yield f"recipe {name}, from {recipe.origin}"
    yield ""
    yield from _settings(recipe.fields)


def _component(entry: Registered) -> Iterator[str]:
    about = _described(entry)
    yield f"{entry.kind} {entry.name}, version {about['version']}"
    if about["doc"]:
        yield ""
        yield textwrap.indent(about["doc"], "  ")
    yield ""
    for name, text in _facts(entry, about).items():
        if text:
            yield f"  {name + ':':12}{text}"
    yield from _classes(about["classes"])
    own = [parameter for parameter in about["parameters"] if parameter["own"]]
    inherited = [parameter for parameter in about["parameters"] if not parameter["own"]]
    for title, parameters in (("parameters", own), ("inherited parameters", inherited)):
        if parameters:
            yield ""
            yield title
        for parameter in parameters:
            yield from _parameter(parameter)
    for name, table in about["presets"].items():
        yield ""
        yield f"preset {name}"
        if table:
            yield from _settings(table)
        else:
            yield "  every default"


def _described(entry: Registered) -> Mapping[str, Any]:
    """Ask a child about a component. Raises PluginError."""
    (answer,) = ask([{"op": "describe", "kind": entry.kind, "target": entry.target}])
    if isinstance(answer, Trouble):
        message = f"{entry.kind} {entry.name!r} of {entry.origin} is broken: {answer.reason}"
        if answer.traceback:
            message += f"\n{textwrap.indent(answer.traceback.rstrip(), '  ')}"
        raise PluginError(message)
    about: Mapping[str, Any] = answer
    return about


def _facts(entry: Registered, about: Mapping[str, Any]) -> dict[str, str]:
    """Return what there is to say of a component, by heading; "" where there is nothing."""
    recipe = ""
    if about["recipe"]:
        recipe = json.dumps(about["recipe"])
    replicates = ""
    if not about["seeded"]:
        replicates = "one artefact serves all"
    argument = ""
    if entry.argument:
        argument = f'"{entry.name}:x" stands for {entry.argument} = "x"'
    return {
        "citation": about["citation"],
        "needs": ", ".join(about["needs"]),
        "recipe": recipe,
        "replicates": replicates,
        "argument": argument,
        "from": str(entry.origin),
        "source": about["source"],
    }


def _classes(names: Sequence[str]) -> Iterator[str]:
    """Say what each label of a dataset stands for, where its class tells."""
    if names:
        numbered = ", ".join(f"{label} {name}" for label, name in enumerate(names))
        indent = " " * 14
        yield textwrap.fill(
            numbered, _WIDTH, initial_indent="  classes:    ", subsequent_indent=indent
        )


def _settings(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        yield f"  {key} = {json.dumps(value)}"


def _parameter(parameter: Mapping[str, Any]) -> Iterator[str]:
    notes = [_default(parameter)]
    if parameter["file"]:
        notes.append("keyed by content")
    if not parameter["in_key"]:
        notes.append("not in keys")
    yield f"  {parameter['name']}: {parameter['type']} ({', '.join(notes)})"
    if parameter["meaning"]:
        indent = " " * 6
        yield textwrap.fill(
            parameter["meaning"], _WIDTH, initial_indent=indent, subsequent_indent=indent
        )


def _default(parameter: Mapping[str, Any]) -> str:
    if parameter["required"]:
        return "required"
    if parameter["default"] is None:
        return "not set by default"
    return f"default {json.dumps(parameter['default'])}"
