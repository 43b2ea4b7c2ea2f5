"""The training of every victim of a grid: a recipe, and over it single fields from the general to
the particular.

`[training]` < dataset < model < the attack entry's `training`. An attack's own recipe goes before
that of `[training]`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from harness.errors import Problem, suggest
from harness.introspect.problems import from_validation
from harness.keys import Shared
from harness.learn.recipes import Recipe

if TYPE_CHECKING:
    from harness.grid import Entry, Grid, Place

Trio = tuple["Entry", "Entry", "Entry"]
"""Dataset, model, attack: what decides how a victim is trained."""

Layer = tuple[Mapping[str, Any], Callable[..., "Place"]]
"""Fields of a recipe, and where they stand."""


def compose(
    grid: Grid,
    own_recipes: Mapping[Trio, Mapping[str, Any] | str | None],
    named: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[Trio, Mapping[str, Any]], list[Problem]]:
    """Return the complete recipe of every victim as JSON, and all that is wrong with them.

    `own_recipes` has the victims, each with the recipe that its attack brings, if it brings one;
    `named` are the registered recipes.
    """
    recipes: dict[Trio, Mapping[str, Any]] = {}
    problems: list[Problem] = []
    for trio, own in own_recipes.items():
        base, place = _base(grid, trio, own)
        if isinstance(base, str):
            if base not in named:
                hint = suggest(base, list(named))
                problems.append(place.problem(f"unknown recipe {base!r}", hint))
                continue
            base = named[base]
        draft = _Draft(base, place)
        for fields, place_of in _layers(grid, trio):
            draft.lay(fields, place_of)
        recipes[trio] = draft.finished(problems)
    return recipes, problems


def _base(
    grid: Grid, trio: Trio, own: Mapping[str, Any] | str | None
) -> tuple[str | Mapping[str, Any], Place]:
    """Return the recipe that an entry names, else the attack's own, else the grid's, else the
    default; and where it stands.
    """
    for entry in reversed(trio):
        if "recipe" in entry.training:
            return entry.training["recipe"], entry.at("training", "recipe")
    if own is not None:
        attack = trio[2]
        return own, attack.at("name")
    return grid.training.get("recipe", {}), grid.place("training", "recipe")


def _layers(grid: Grid, trio: Trio) -> Sequence[Layer]:
    """Return what lies over the base."""
    layers: list[Layer] = [(grid.training, partial(grid.place, "training"))]
    for entry in trio:
        layers.append((entry.training, partial(entry.at, "training")))
    return layers


class _Draft:
    """Fields of a recipe, and where those that a grid sets stand; the others came from `place`."""

    def __init__(self, base: Mapping[str, Any], place: Place) -> None:
        self.fields = dict(base)
        self.place = place
        self.places: dict[str, Callable[..., Place]] = {}

    def lay(self, fields: Mapping[str, Any], place_of: Callable[..., Place]) -> None:
        """Set fields."""
        for name, value in fields.items():
            if name == "recipe":
                continue
            self.fields[name] = value
            self.places[name] = partial(place_of, name)

    def finished(self, problems: list[Problem]) -> Mapping[str, Any]:
        """Return the recipe with all its fields; what is wrong with it goes to `problems`."""
        known = list(Recipe.model_fields)
        sound = {}
        for name, value in self.fields.items():
            if name in known:
                sound[name] = value
            else:
                complaint = f"a recipe has no field {name!r}"
                problems.append(self._at(name).problem(complaint, suggest(name, known)))
        try:
            recipe = Recipe.model_validate_json(json.dumps(sound))
        except ValidationError as error:
            for path, complaint, hint in from_validation(error, Recipe, sound).listed:
                place = self._at(*path) if path else self._about(complaint)
                hint = hint or "`bench show recipe NAME` shows what recipes set"
                problems.append(place.problem(complaint, hint))
            return {}
        return Shared(recipe.model_dump(mode="json"))

    def _at(self, name: str | int, *path: str | int) -> Place:
        if name in self.places:
            return self.places[str(name)](*path)
        return self.place

    def _about(self, complaint: str) -> Place:
        """Return the place of fields that do not go together: of the first that the complaint names
        and the grid sets.
        """
        for word in re.findall(r"\w+", complaint):
            if word in self.places:
                return self._at(word)
        return self.place
