"""What one entry point registers."""

from __future__ import annotations

import functools
import importlib
import json
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

import pluggy

from harness import environment, hookspecs
from harness.errors import PluginError
from harness.registry.names import KEBAB

_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class Register:
    """What `bench_register` is called with: collects names and targets, and refuses what cannot be
    right.
    """

    def __init__(self) -> None:
        self.components: list[dict[str, Any]] = []
        self.recipes: list[dict[str, Any]] = []

    def attack(self, name: str, target: str, *, argument: str | None = None) -> None:
        """An attack: `name` in kebab case, `target` as `module:Class`; raises PluginError for
        anything else.
        """
        self._add("attack", name, target, argument)

    def defense(self, name: str, target: str, *, argument: str | None = None) -> None:
        """A defense."""
        self._add("defense", name, target, argument)

    def model(self, name: str, target: str, *, argument: str | None = None) -> None:
        """A model. With `argument="arch"`, a grid may say `name:x` for `arch = "x"`."""
        self._add("model", name, target, argument)

    def dataset(self, name: str, target: str, *, argument: str | None = None) -> None:
        """A dataset."""
        self._add("dataset", name, target, argument)

    def metric(self, name: str, target: str, *, argument: str | None = None) -> None:
        """A metric."""
        self._add("metric", name, target, argument)

    def part(self, name: str, target: str, *, argument: str | None = None) -> None:
        """A part: a component that only fills a parameter of another."""
        self._add("part", name, target, argument)

    def recipe(self, name: str, fields: Mapping[str, Any]) -> None:
        """A training recipe: fields of `harness.Recipe` by name; what is left out keeps its
        default.
        """
        from pydantic import ValidationError

        from harness.learn.recipes import Recipe

        _check_name("recipe", name, [recipe["name"] for recipe in self.recipes])
        try:
            text = json.dumps(dict(fields))
            Recipe.model_validate_json(text)
        except (ValidationError, TypeError, ValueError) as error:
            raise PluginError(f"recipe {name!r}: {error}") from error
        self.recipes.append({"name": name, "fields": json.loads(text)})

    def _add(self, kind: str, name: str, target: str, argument: str | None) -> None:
        _check_name(
            kind, name, [entry["name"] for entry in self.components if entry["kind"] == kind]
        )
        if not isinstance(target, str) or not _TARGET.fullmatch(target):
            raise PluginError(
                f'{kind} {name!r}: the target is {target!r}, where "package.module:Class" is wanted '
                "(a string, so that listing the component does not import it)"
            )
        if argument is not None and not (isinstance(argument, str) and argument.isidentifier()):
            raise PluginError(
                f"{kind} {name!r}: argument = {argument!r} is not the name of a parameter"
            )
        self.components.append({"kind": kind, "name": name, "target": target, "argument": argument})


def register(module: str, attribute: str) -> dict[str, Any]:
    """Import an entry point's object and let it register.

    Returns its components and recipes, the seconds that took beyond the harness's own imports, and
    the stamps of the files that it loaded, for whoever remembers the answer. Raises PluginError for
    a plugin that breaks the contract.
    """
    # What every plugin needs is not the time of the one that is asked.
    importlib.import_module("harness.components")
    start = time.perf_counter()
    plugin = functools.reduce(
        getattr, attribute.split(".") if attribute else [], importlib.import_module(module)
    )
    collected = _collect(plugin, f"{module}:{attribute}" if attribute else module)
    seconds = time.perf_counter() - start
    return {
        "components": collected.components,
        "recipes": collected.recipes,
        "seconds": seconds,
        "files": _loaded(module.partition(".")[0]),
    }


def _collect(plugin: Any, name: str) -> Register:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(str(error)) from error
    if not manager.hook.bench_register.get_hookimpls():
        marked = (
            "is not marked with @hookimpl" if hasattr(plugin, "bench_register") else "is not there"
        )
        hint = "from harness import hookimpl"
        raise PluginError(
            f"{name} registers nothing: its function bench_register {marked} ({hint})"
        )
    collected = Register()
    manager.hook.bench_register(register=collected)
    return collected


def _check_name(kind: str, name: str, taken: list[str]) -> None:
    if not isinstance(name, str) or not KEBAB.fullmatch(name):
        raise PluginError(
            f'{kind} {name!r}: a name is lower-case words and digits joined by hyphens, as "blend-in-2"'
        )
    if name in taken:
        raise PluginError(f"{kind} {name!r} is registered twice")


def _loaded(package: str) -> dict[str, Any]:
    """Stamps of the files of the plugin's own package that are loaded now."""
    files = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == package and (file := getattr(module, "__file__", None)):
            files[file] = environment.file_state(file)
    return files
