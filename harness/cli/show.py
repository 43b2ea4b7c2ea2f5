"""`bench show`: a component's parameters and where it comes from; also recipes, and why a plugin is
broken.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from harness.errors import BenchError, PluginError, UnknownName, suggest
from harness.registry.ask import Trouble, ask
from harness.registry.discovery import discover
from harness.registry.names import KINDS, Broken, Registered, Registry

_WIDTH = 100


def run(args: argparse.Namespace) -> int:
    """Print what `args.words` (`[KIND] NAME`) name. Raises BenchError where that is nothing, or
    several things.
    """
    registry = discover()
    kind, name = _read(args.words, registry)
    if kind == "plugin":
        print(
            "\n".join(
                _broken(next(one for one in registry.broken if one.origin.entry_point == name))
            )
        )
    elif kind == "recipe":
        recipe = registry.recipe(name)
        print("\n".join([f"recipe {name}, from {recipe.origin}", "", *_settings(recipe.fields)]))
    else:
        print("\n".join(_component(registry.find(kind, name))))
        if name in registry.recipes:
            print(f"\nThere is a recipe of that name, too: bench show recipe {name}")
    return 0


def _read(words: list[str], registry: Registry) -> tuple[str, str]:
    """Kind and name; the kind may be left out where only one has that name."""
    kinds = (*KINDS, "recipe", "plugin")
    if len(words) == 2:
        kind = words[0].removesuffix("s")
        if kind not in kinds:
            raise BenchError(f"unknown kind {words[0]!r}. {suggest(kind, kinds)}")
        if kind == "plugin" and words[1] not in _plugins(registry):
            raise UnknownName("broken plugin", words[1], _plugins(registry))
        return kind, words[1]
    if len(words) > 2:
        raise BenchError(f"bench show takes [KIND] NAME, not {len(words)} words")
    name = words[0]
    found = [*registry.kinds_of(name), *["plugin"] * (name in _plugins(registry))]
    # A paper's recipe often has the name of its method, which is what is meant.
    found = found or ["recipe"] * (name in registry.recipes)
    if len(found) > 1:
        choices = " or ".join(f"`bench show {kind} {name}`" for kind in found)
        raise BenchError(f"{name!r} names several things: say {choices}")
    if not found:
        known = (
            {entry.name for entry in registry.entries()}
            | set(registry.recipes)
            | set(_plugins(registry))
        )
        raise UnknownName("name", name, known)
    return found[0], name


def _plugins(registry: Registry) -> list[str]:
    return [broken.origin.entry_point for broken in registry.broken]


def _broken(broken: Broken) -> Iterable[str]:
    yield f"plugin {broken.origin} is broken: {broken.reason}"
    if broken.traceback:
        yield ""
        yield textwrap.indent(broken.traceback.rstrip(), "  ")


def _component(entry: Registered) -> Iterable[str]:
    (about,) = ask([{"op": "describe", "kind": entry.kind, "target": entry.target}])
    if isinstance(about, Trouble):
        detail = f"\n{textwrap.indent(about.traceback.rstrip(), '  ')}" if about.traceback else ""
        raise PluginError(
            f"{entry.kind} {entry.name!r} of {entry.origin} is broken: {about.reason}{detail}"
        )
    yield f"{entry.kind} {entry.name}, version {about['version']}"
    if about["doc"]:
        yield from ("", textwrap.indent(about["doc"], "  "))
    yield ""
    yield from _facts(entry, about)
    own = [parameter for parameter in about["parameters"] if parameter["own"]]
    shared = [parameter for parameter in about["parameters"] if not parameter["own"]]
    for title, parameters in (("parameters", own), ("inherited parameters", shared)):
        if parameters:
            yield from ("", title)
            for parameter in parameters:
                yield from _parameter(parameter)
    for name, table in about["presets"].items():
        yield from ("", f"preset {name}", *(_settings(table) or ["  every default"]))


def _facts(entry: Registered, about: dict[str, Any]) -> Iterable[str]:
    facts = {
        "citation": about["citation"],
        "needs": ", ".join(about["needs"]),
        "recipe": json.dumps(about["recipe"]) if about["recipe"] else "",
        "replicates": "" if about["seeded"] else "one artefact serves all",
        "argument": f'"{entry.name}:x" stands for {entry.argument} = "x"' if entry.argument else "",
        "from": str(entry.origin),
        "source": about["source"],
    }
    yield from (f"  {name + ':':12}{text}" for name, text in facts.items() if text)


def _settings(table: Mapping[str, Any]) -> list[str]:
    return [f"  {key} = {json.dumps(value)}" for key, value in table.items()]


def _default(value: Any) -> str:
    return "not set by default" if value is None else f"default {json.dumps(value)}"


def _parameter(parameter: dict[str, Any]) -> Iterable[str]:
    default = "required" if parameter["required"] else _default(parameter["default"])
    notes = [
        default,
        *["keyed by content"] * parameter["file"],
        *["not in keys"] * (not parameter["in_key"]),
    ]
    yield f"  {parameter['name']}: {parameter['wanted']} ({', '.join(notes)})"
    if parameter["meaning"]:
        yield textwrap.fill(
            parameter["meaning"], _WIDTH, initial_indent="      ", subsequent_indent="      "
        )
