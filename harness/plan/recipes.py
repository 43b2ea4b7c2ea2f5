"""The training of every victim of a grid: a recipe, and over it single fields from the general to
the particular.

`[training]` < dataset < model < the attack entry's `training`. An attack's own recipe goes before
that of `[training]`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from harness.errors import Problem, suggest
from harness.introspect.problems import IDLE, from_validation
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
    upright: Collection[Entry] = (),
) -> tuple[dict[Trio, Mapping[str, Any]], list[Problem]]:
    """Return the complete recipe of every victim as JSON, and all that is wrong with them.

    `own_recipes` has the victims, each with the recipe that its attack brings, if it brings one;
    `named` are the registered recipes. On datasets that are `upright` no recipe mirrors images,
    whether named or an attack's own; only the field `flip` in the grid does.
    """
    recipes: dict[Trio, Mapping[str, Any]] = {}
    problems: list[Problem] = []
    idle = _Idle(grid)
    for trio, own in own_recipes.items():
        base, place = _base(grid, trio, own)
        if isinstance(base, str):
            if base not in named:
                hint = suggest(base, list(named))
                problems.append(place.problem(f"unknown recipe {base!r}", hint))
                problems += check_fields(grid, [trio], named)
                continue
            base = named[base]
        draft = _RecipeDraft(base, place)
        if trio[0] in upright:
            draft.fields["flip"] = False
        for fields, place_of in _layers(grid, trio):
            draft.lay(fields, place_of)
        recipe = draft.finished(problems)
        recipes[trio] = {}
        if recipe is not None:
            recipes[trio] = Shared(recipe.model_dump(mode="json"))
            idle.look(draft, recipe)
    return recipes, [*problems, *idle.problems()]


def check_fields(
    grid: Grid, victims: Sequence[Trio], named: Mapping[str, Mapping[str, Any]]
) -> list[Problem]:
    """Return what is wrong with recipe and single fields of victims of which no more is known."""
    problems: list[Problem] = []
    for trio in victims:
        base, place = _base(grid, trio, None)
        if isinstance(base, str) and base not in named:
            problems.append(place.problem(f"unknown recipe {base!r}", suggest(base, list(named))))
        for fields, place_of in _layers(grid, trio):
            for name, value in fields.items():
                draft = _RecipeDraft({}, place_of())
                draft.lay({name: value}, place_of)
                draft.finished(problems, alone=True)
    return problems


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


def place_of_field(grid: Grid, trio: Trio, name: str) -> Place:
    """Return the place where a grid sets a field of a victim's recipe, else that of the attack."""
    attack = trio[2]
    for entry in reversed(trio):
        if name in entry.training:
            return entry.at("training", name)
    if name in grid.training:
        return grid.place("training", name)
    return attack.at("name")


def _layers(grid: Grid, trio: Trio) -> Sequence[Layer]:
    """Return what lies over the base."""
    layers: list[Layer] = [(grid.training, partial(grid.place, "training"))]
    for entry in trio:
        layers.append((entry.training, partial(entry.at, "training")))
    return layers


class _Idle:
    """The fields of recipes that a grid file sets to no effect, on any victim.

    Those of a file that it extends may be: a child cannot take them back.
    """

    def __init__(self, grid: Grid) -> None:
        self.file = grid.path
        self.reasons: dict[Place, str | None] = {}
        """Why the field at a place does nothing; None where it acts on some victim."""

    def look(self, draft: _RecipeDraft, recipe: Recipe) -> None:
        """Note which fields of one victim act."""
        unused = recipe.unused()
        for name, place_of in draft.places.items():
            place = place_of()
            reason = unused.get(name)
            if place.file != self.file:
                reason = None
            if self.reasons.setdefault(place, reason) is not None:
                self.reasons[place] = reason

    def problems(self) -> list[Problem]:
        """Return what is wrong with each field that acts on no victim."""
        found = []
        for place, reason in self.reasons.items():
            if reason is not None:
                found.append(place.problem(f"{IDLE}: {reason}", "leave it out"))
        return found


class _RecipeDraft:
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

    def finished(self, problems: list[Problem], alone: bool = False) -> Recipe | None:
        """Return the recipe; what is wrong with it goes to `problems`, but for what does not go
        together where a field stands `alone`.
        """
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
                if alone and not path:
                    continue
                place = self._at(*path) if path else self._about(complaint)
                hint = hint or "`bench show recipe NAME` shows what recipes set"
                problems.append(place.problem(complaint, hint))
            return None
        return recipe

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
