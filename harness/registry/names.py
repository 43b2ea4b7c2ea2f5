"""The names that plugins registered: each leads to `module:Class`, without importing it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import PluginError, UnknownName
from harness.vocabulary import KINDS


@dataclass(frozen=True)
class Origin:
    """The distribution that registered something, and the name of its entry point."""

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
        """The distribution and entry point that registered it."""
        return Origin(self.distribution, self.dist_version, self.entry_point)


@dataclass(frozen=True)
class NamedRecipe:
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
        recipes: Iterable[NamedRecipe] = (),
        broken: Iterable[Broken] = (),
    ) -> None:
        self.broken = tuple(broken)
        self._components: dict[tuple[str, str], list[Registered]] = {}
        self._recipes: dict[str, list[NamedRecipe]] = {}
        for component in components:
            self._components.setdefault((component.kind, component.name), []).append(component)
        for recipe in recipes:
            self._recipes.setdefault(recipe.name, []).append(recipe)

    def entries(self, kind: str | None = None) -> list[Registered]:
        """Return every usable component, of one kind or of all, sorted by kind and name."""
        usable = []
        for same in self._components.values():
            component = same[0]
            if len(same) == 1 and kind in (None, component.kind):
                usable.append(component)
        return sorted(usable, key=lambda entry: (KINDS.index(entry.kind), entry.name))

    @property
    def collisions(self) -> list[tuple[str, str, list[Origin]]]:
        """(kind, name, who) of what more than one entry point registered: not usable until one is
        gone.
        """
        collisions = []
        for (kind, name), components in sorted(self._components.items()):
            if len(components) > 1:
                collisions.append((kind, name, [component.origin for component in components]))
        for name, recipes in sorted(self._recipes.items()):
            if len(recipes) > 1:
                collisions.append(("recipe", name, [recipe.origin for recipe in recipes]))
        return collisions

    @property
    def recipes(self) -> dict[str, Mapping[str, Any]]:
        """The fields of every usable recipe, by name."""
        usable = {}
        for name, same in sorted(self._recipes.items()):
            if len(same) == 1:
                usable[name] = same[0].fields
        return usable

    def find(self, kind: str, name: str) -> Registered:
        """Return the component that `name` stands for: `resnet18`, or `timm:resnet18` where `timm`
        takes an argument.

        Raises UnknownName (with near names, and a word on broken plugins), and PluginError for a
        name that two distributions claim.
        """
        base, colon, value = name.partition(":")
        same = self._components.get((kind, base), [])
        if len(same) > 1:
            raise PluginError(collision(f"{kind} {base!r}", [entry.origin for entry in same]))
        if not same:
            raise self._unknown(kind, name)
        component = same[0]
        if not colon:
            return component
        if not component.argument:
            raise self._unknown(kind, name, f"{kind} {base!r} takes no argument after a colon.")
        if not value:
            raise self._unknown(kind, name, f'Say which: "{base}:<{component.argument}>".')
        return replace(component, argument_value=value)

    def recipe(self, name: str) -> NamedRecipe:
        """Return the recipe of that name.

        Raises UnknownName, and PluginError for a name that two distributions claim.
        """
        same = self._recipes.get(name, [])
        if len(same) > 1:
            raise PluginError(collision(f"recipe {name!r}", [recipe.origin for recipe in same]))
        if not same:
            raise self._unknown("recipe", name)
        return same[0]

    def kinds_of(self, name: str) -> list[str]:
        """Return the kinds in which a name (or what stands before its colon) is registered, usable
        or not.
        """
        base = name.partition(":")[0]
        return [kind for kind in KINDS if (kind, base) in self._components]

    def _unknown(self, kind: str, name: str, hint: str = "") -> UnknownName:
        if kind == "recipe":
            known = list(self.recipes)
        else:
            known = [entry.name for entry in self.entries(kind)]
        error = UnknownName(kind, name, known)
        sentences = [str(error)]
        if hint:
            sentences.append(hint)
        if self.broken:
            listed = "; ".join(f"{broken.origin}: {broken.reason}" for broken in self.broken)
            sentences.append(f"It may belong to a plugin that is broken: {listed}")
        error.args = (" ".join(sentences),)
        return error


def collision(subject: str, origins: Iterable[Origin]) -> str:
    """Return the message for a name that several entry points claim."""
    claimants = " and by ".join(map(str, origins))
    return f"{subject} is registered by {claimants}; uninstall one of them to use the name"
