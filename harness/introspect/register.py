"""Asking one entry point what it registers."""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import pluggy
from pydantic import ValidationError

from harness import environment, hookspecs
from harness.errors import PluginError
from harness.learn.recipes import Recipe
from harness.vocabulary import KEBAB, PROJECT

_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class Register:
    """The object that `bench_register` is given: collects names and targets, and refuses what
    cannot be right.

    Every method takes `name` in kebab case and, for a component, `target` as `module:Class`; with
    `argument="arch"`, a grid may say `name:x` for `arch = "x"`. All raise PluginError for anything
    else.
    """

    def __init__(self) -> None:
        self.components: list[dict[str, Any]] = []
        self.recipes: list[dict[str, Any]] = []

    def attack(self, name: str, target: str, *, argument: str | None = None) -> None:
        """Register an attack."""
        self._add("attack", name, target, argument)

    def defense(self, name: str, target: str, *, argument: str | None = None) -> None:
        """Register a defense."""
        self._add("defense", name, target, argument)

    def model(self, name: str, target: str, *, argument: str | None = None) -> None:
        """Register a model."""
        self._add("model", name, target, argument)

    def dataset(self, name: str, target: str, *, argument: str | None = None) -> None:
        """Register a dataset."""
        self._add("dataset", name, target, argument)

    def metric(self, name: str, target: str, *, argument: str | None = None) -> None:
        """Register a metric."""
        self._add("metric", name, target, argument)

    def part(self, name: str, target: str, *, argument: str | None = None) -> None:
        """Register a part: a component that only fills a parameter of another."""
        self._add("part", name, target, argument)

    def recipe(self, name: str, fields: Mapping[str, Any]) -> None:
        """Register a training recipe: fields of `harness.Recipe` by name; what is left out keeps
        its default.
        """
        _check_name("recipe", name, self.recipes)
        try:
            text = json.dumps(dict(fields))
            Recipe.model_validate_json(text)
        except (ValidationError, TypeError, ValueError) as error:
            raise PluginError(f"recipe {name!r}: {error}") from error
        self.recipes.append({"name": name, "fields": json.loads(text)})

    def _add(self, kind: str, name: str, target: str, argument: str | None) -> None:
        _check_name(kind, name, [entry for entry in self.components if entry["kind"] == kind])
        if not isinstance(target, str) or not _TARGET.fullmatch(target):
            raise PluginError(
                f"{kind} {name!r}: the target is {target!r}, "
                'where "package.module:Class" is expected '
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
    the states of the files that it loaded, for whoever remembers the answer. Raises PluginError for
    a plugin that breaks the contract.
    """
    # The imports that every plugin needs do not count as the time of the one that is asked.
    importlib.import_module("harness.components")
    start = time.perf_counter()
    plugin: Any = importlib.import_module(module)
    name = module
    if attribute:
        name = f"{module}:{attribute}"
        for step in attribute.split("."):
            plugin = getattr(plugin, step)
    collected = _collect(plugin, name)
    seconds = time.perf_counter() - start
    return {
        "components": collected.components,
        "recipes": collected.recipes,
        "seconds": seconds,
        "files": _loaded(module.partition(".")[0]),
    }


def _collect(plugin: Any, name: str) -> Register:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(str(error)) from error
    if not manager.hook.bench_register.get_hookimpls():
        wrong = "is not there"
        if hasattr(plugin, "bench_register"):
            wrong = "is not marked with @hookimpl"
        raise PluginError(
            f"{name} registers nothing: its function bench_register {wrong} "
            "(from harness import hookimpl)"
        )
    collected = Register()
    manager.hook.bench_register(register=collected)
    return collected


def _check_name(kind: str, name: str, taken: Iterable[Mapping[str, Any]]) -> None:
    """Refuse a name that is none, or that one of the entries `taken` has."""
    if not isinstance(name, str) or not KEBAB.fullmatch(name):
        raise PluginError(
            f"{kind} {name!r}: a name is lower-case words and digits joined by hyphens, "
            'as "blend-in-2"'
        )
    if any(entry["name"] == name for entry in taken):
        raise PluginError(f"{kind} {name!r} is registered twice")


def _loaded(package: str) -> dict[str, Any]:
    """Return the states of the files of the plugin's own package that are loaded now."""
    states = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and name.partition(".")[0] == package:
            states[file] = environment.file_state(file)
    return states
