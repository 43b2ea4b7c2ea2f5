"""How every victim of a grid is trained: a recipe, and over it single fields from the general to
the particular.

`[training]` < dataset < model < the attack entry's `training`. An attack's own recipe goes before
that of `[training]`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.errors import Problem, suggest
from harness.keys import Shared

if TYPE_CHECKING:
    from harness.grid import Cell, Entry, Place
    from harness.plan.binding import Binding

Trio = tuple["Entry", "Entry", "Entry"]
"""Dataset, model, attack: what decides how a victim is trained."""

Recipes = dict[Trio, dict[str, Any]]


def compose(
    binding: Binding, cells: Iterable[Cell], named: Mapping[str, Mapping[str, Any]]
) -> tuple[Recipes, list[Problem]]:
    """The complete recipe of every victim as JSON, out of the `named` ones, and all that is wrong
    with them.

    Victims whose dataset or attack is unknown are left out.
    """
    recipes: Recipes = {}
    problems: list[Problem] = []
    for trio in dict.fromkeys((cell.dataset, cell.model, cell.attack) for cell in cells):
        if not binding.found(trio[0], trio[2]):
            continue
        base, place = _base(binding, trio)
        if isinstance(base, str) and base not in named:
            problems.append(place.problem(f"unknown recipe {base!r}", suggest(base, list(named))))
            continue
        draft = _Draft(dict(named[base] if isinstance(base, str) else base), place)
        for fields, find in _layers(binding, trio):
            draft.lay(fields, find)
        recipes[trio] = draft.finished(problems)
    return recipes, problems


def _base(binding: Binding, trio: Trio) -> tuple[str | Mapping[str, Any], Place]:
    """The recipe that an entry names, else the attack's own, else the grid's, else the default; and
    who says so.
    """
    grid, attack = binding.grid, binding.component(trio[2], trio[0])
    for entry in reversed(trio):
        if "recipe" in entry.training:
            return entry.training["recipe"], entry.at("training", "recipe")
    if attack.recipe is not None:
        return attack.recipe, trio[2].at("name")
    return grid.training.get("recipe", {}), grid.place("training", "recipe")


def _layers(
    binding: Binding, trio: Trio
) -> Sequence[tuple[Mapping[str, Any], Callable[..., Place]]]:
    """What lies over the base, with where the fields stand."""
    own = [(entry.training, partial(entry.at, "training")) for entry in trio]
    return [(binding.grid.training, partial(binding.grid.place, "training")), *own]


@dataclass
class _Draft:
    """Fields of a recipe, and where those that a grid sets stand; the others came from `place`."""

    fields: dict[str, Any]
    place: Place

    def __post_init__(self) -> None:
        self.origins: dict[str, Callable[..., Place]] = {}

    def lay(self, fields: Mapping[str, Any], find: Callable[..., Place]) -> None:
        """Set fields."""
        for name, value in fields.items():
            if name != "recipe":
                self.fields[name], self.origins[name] = value, partial(find, name)

    def finished(self, problems: list[Problem]) -> dict[str, Any]:
        """The recipe with all its fields; what is wrong with it goes to `problems`."""
        from pydantic import ValidationError

        from harness.introspect.problems import from_validation
        from harness.learn.recipes import Recipe

        known = list(Recipe.model_fields)
        strange = [name for name in self.fields if name not in known]
        problems += [
            self._at(name).problem(f"a recipe has no field {name!r}", suggest(name, known))
            for name in strange
        ]
        sound = {name: value for name, value in self.fields.items() if name in known}
        try:
            return Shared(Recipe.model_validate_json(json.dumps(sound)).model_dump(mode="json"))
        except ValidationError as error:
            for path, what, hint in from_validation(error, Recipe, sound).listed:
                place = self._at(*path) if path else self._about(what)
                problems.append(
                    place.problem(what, hint or "`bench show recipe NAME` shows what recipes set")
                )
            return {}

    def _at(self, name: str | int, *path: str | int) -> Place:
        return self.origins[str(name)](*path) if name in self.origins else self.place

    def _about(self, what: str) -> Place:
        """Fields that do not go together: the first that the complaint names and the grid sets."""
        words = re.findall(r"\w+", what)
        return next((self._at(word) for word in words if word in self.origins), self.place)
