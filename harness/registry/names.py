"""What the plugins registered: a name of a kind leads to `module:Class`, without importing it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import PluginError, UnknownName

KINDS = ("attack", "defense", "model", "dataset", "metric", "part")
"""As in `harness.components`, which the parent does not import: pydantic would cost half of a quick
command.
"""

KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""What a component's or a recipe's name looks like."""


@dataclass(frozen=True)
class Origin:
    """Who registered something: a distribution and the name of its entry point."""

    distribution: str
    version: str
    entry_point: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} (entry point {self.entry_point!r})"


@dataclass(frozen=True)
class Registered:
    """One registered component.

    `target` is `module:Class`. With `argument`, the name may be followed by `:value`, which sets
    that parameter; `argument_value` is the value where this was looked up by such a name.
    """

    kind: str
    name: str
    target: str
    distribution: str
    dist_version: str
    entry_point: str
    argument: str | None = None
    argument_value: str | None = None

    @property
    def module(self) -> str:
        """The dotted name of the module that the class is in."""
        return self.target.partition(":")[0]

    @property
    def origin(self) -> Origin:
        """Who registered it."""
        return Origin(self.distribution, self.dist_version, self.entry_point)


@dataclass(frozen=True)
class Recipe:
    """A named training recipe: some fields of `harness.Recipe`."""

    name: str
    fields: Mapping[str, Any]
    origin: Origin


@dataclass(frozen=True)
class Broken:
    """A plugin that could not register its components: why, with the traceback or the tail of its
    log.
    """

    origin: Origin
    reason: str
    traceback: str = ""


class Registry:
    """All components and recipes that can be named, and the plugins that could not be asked."""

    def __init__(
        self,
        components: Iterable[Registered] = (),
        recipes: Iterable[Recipe] = (),
        broken: Iterable[Broken] = (),
    ) -> None:
        self.broken = tuple(broken)
        self._components: dict[tuple[str, str], list[Registered]] = {}
        self._recipes: dict[str, list[Recipe]] = {}
        for component in components:
            self._components.setdefault((component.kind, component.name), []).append(component)
        for recipe in recipes:
            self._recipes.setdefault(recipe.name, []).append(recipe)

    def entries(self, kind: str | None = None) -> list[Registered]:
        """Every usable component, of one kind or of all, sorted by kind and name."""
        found = [
            same[0]
            for same in self._components.values()
            if len(same) == 1 and kind in (None, same[0].kind)
        ]
        return sorted(found, key=lambda entry: (KINDS.index(entry.kind), entry.name))

    @property
    def collisions(self) -> list[tuple[str, str, list[Origin]]]:
        """(kind, name, who) of what more than one entry point registered: not usable until one is
        gone.
        """
        claims: list[tuple[str, str, list[Registered] | list[Recipe]]] = [
            *((kind, name, same) for (kind, name), same in sorted(self._components.items())),
            *(("recipe", name, recipes) for name, recipes in sorted(self._recipes.items())),
        ]
        return [
            (kind, name, [one.origin for one in same])
            for kind, name, same in claims
            if len(same) > 1
        ]

    @property
    def recipes(self) -> dict[str, Mapping[str, Any]]:
        """The fields of every usable recipe, by name."""
        return {
            name: same[0].fields for name, same in sorted(self._recipes.items()) if len(same) == 1
        }

    def find(self, kind: str, name: str) -> Registered:
        """The component that `name` stands for: `resnet18`, or `timm:resnet18` where `timm` takes
        an argument.

        Raises UnknownName (with near names, and a word on broken plugins), and PluginError for a
        name that two distributions claim.
        """
        base, colon, value = name.partition(":")
        same = self._components.get((kind, base), [])
        if len(same) > 1:
            raise PluginError(collision(f"{kind} {base!r}", [entry.origin for entry in same]))
        if not same:
            raise self._unknown(kind, name, self._names(kind))
        found = same[0]
        if colon and not found.argument:
            raise self._unknown(
                kind, name, self._names(kind), f"{kind} {base!r} takes no argument after a colon."
            )
        if colon and not value:
            raise self._unknown(
                kind, name, self._names(kind), f'Say which: "{base}:<{found.argument}>".'
            )
        return replace(found, argument_value=value) if colon else found

    def recipe(self, name: str) -> Recipe:
        """The recipe of that name. Raises UnknownName, and PluginError for a name that two
        distributions claim.
        """
        same = self._recipes.get(name, [])
        if len(same) > 1:
            raise PluginError(collision(f"recipe {name!r}", [recipe.origin for recipe in same]))
        if not same:
            raise self._unknown("recipe", name, self.recipes)
        return same[0]

    def kinds_of(self, name: str) -> list[str]:
        """The kinds in which a name (or what stands before its colon) is registered, usable or not."""
        return [kind for kind in KINDS if (kind, name.partition(":")[0]) in self._components]

    def _names(self, kind: str) -> list[str]:
        return [entry.name for entry in self.entries(kind)]

    def _unknown(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> UnknownName:
        error = UnknownName(kind, name, known)
        notes = [str(error), *([hint] if hint else [])]
        if self.broken:
            listed = "; ".join(f"{broken.origin}: {broken.reason}" for broken in self.broken)
            notes.append(f"It may belong to a plugin that is broken: {listed}")
        error.args = (" ".join(notes),)
        return error


def collision(what: str, origins: Iterable[Origin]) -> str:
    """The message for a name that several entry points claim."""
    return f"{what} is registered by {' and by '.join(map(str, origins))}; uninstall one of them to use the name"
