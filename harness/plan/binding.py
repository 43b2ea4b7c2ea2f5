"""A grid's entries bound to components: every entry resolved in a child, every complaint at its
line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from harness.components import DatasetFacts, MetricFacts, Task
from harness.errors import GridError, Problem
from harness.keys import digest
from harness.learn.recipes import Recipe
from harness.plan.questions import (
    component_questions,
    established_questions,
    grant_questions,
    name_of,
    sort_answers,
)
from harness.plan.recipes import Trio, check_fields, compose, place_of_field
from harness.registry.resolved import Resolved
from harness.stages.splits import Sizes, sizes

if TYPE_CHECKING:
    from harness.grid import Cell, Entry, Grid
    from harness.registry.names import Registry
    from harness.registry.resolve import Resolver


@dataclass
class Binding:
    """The answers to a plan's questions: the component of an entry on a dataset, the recipe of a
    victim, the task, the split sizes.
    """

    grid: Grid
    components: Mapping[tuple[Entry, str | None], Resolved]
    """By entry and, where a preset may differ by dataset, the dataset's name."""
    grants: Mapping[str, Resolved[DatasetFacts]]
    """Datasets that a grant takes images from, by the canonical text of what names them."""
    established: Mapping[str, Resolved[MetricFacts]]
    """The metrics that `established` speaks of, by name."""
    recipes: Mapping[Trio, Mapping[str, Any]] = field(default_factory=dict)

    def component(self, entry: Entry, dataset: Entry) -> Resolved:
        """Return the resolved component of `entry` in a cell on `dataset`."""
        return self.components[name_of(entry, dataset)]

    def found(self, entry: Entry, dataset: Entry) -> bool:
        """Tell whether `entry` could be resolved for `dataset`."""
        return name_of(entry, dataset) in self.components

    def sizes(self, dataset: Entry) -> Sizes:
        """Return the sizes of the dataset's splits."""
        resolved = self.component(dataset, dataset)
        return sizes(resolved.params, resolved.facts.train_count, resolved.facts.test_count)

    def task(self, dataset: Entry) -> Task:
        """Return the classification problem that the dataset poses."""
        resolved = self.component(dataset, dataset)
        facts: DatasetFacts = resolved.facts
        train_count = self.sizes(dataset).train
        return Task(
            resolved.name,
            facts.classes,
            facts.height,
            facts.width,
            facts.channels,
            train_count,
            facts.mirrors,
        )


def bind(grid: Grid, cells: Iterable[Cell], registry: Registry, resolver: Resolver) -> Binding:
    """Resolve everything that `cells` need. Raises GridError with every problem found."""
    # Replicates need the same.
    combinations = list({cell.entries: cell for cell in cells}.values())
    components = component_questions(grid, combinations)
    grants = grant_questions(grid, combinations)
    established = established_questions(combinations)
    questions = [*components.values(), *grants.values(), *established.values()]
    answers = iter(resolver.resolve_all([question.request for question in questions]))
    problems: list[Problem] = []
    binding = Binding(
        grid,
        components=sort_answers(components, answers, problems),
        grants=sort_answers(grants, answers, problems),
        established=sort_answers(established, answers, problems),
    )
    problems += _twins(binding.components)
    problems += _idle_starts(binding, combinations)
    problems += _split_problems(binding, combinations)
    own_recipes = _own_recipes(binding, combinations)
    binding.recipes, recipe_problems = compose(
        grid, own_recipes, registry.recipes, _upright(binding, combinations)
    )
    problems += recipe_problems
    problems += _misfits(binding, combinations)
    lost = [cell.entries[:3] for cell in combinations]
    lost = [trio for trio in lost if trio not in own_recipes]
    problems += check_fields(grid, lost, registry.recipes)
    if problems:
        raise GridError(_by_place(problems))
    return binding


def _by_place(problems: Iterable[Problem]) -> list[Problem]:
    """Return problems without repetitions, file by file in the order in which files were first
    named, and by line.
    """
    unique = list({_mistake(problem): problem for problem in reversed(list(problems))}.values())
    unique.reverse()
    files = list(dict.fromkeys(problem.file for problem in unique))

    def place(problem: Problem) -> tuple[int, int]:
        return files.index(problem.file), problem.line or 0

    return sorted(unique, key=place)


def _mistake(problem: Problem) -> Problem:
    """Return a problem without the number of a sweep's value: what is said of several of them in
    the same words is one mistake.
    """
    if ".sweep." not in f".{problem.key}":
        return problem
    return replace(problem, key=re.sub(r"\[\d+\]$", "", problem.key), line=None)


# --- problems that only all answers together show -------------------------------------------------


def _twins(components: Mapping[tuple[Entry, str | None], Resolved]) -> list[Problem]:
    """Find entries that come to the same: two columns with one number, or one paid for under two
    names.
    """
    seen: dict[str, Entry] = {}
    problems = []
    for (entry, dataset), resolved in components.items():
        on = entry.on.label if entry.on else None
        settings = [
            _with_uses(resolved),
            dataset,
            on,
            dict(entry.training),
            dict(entry.grant or {}),
        ]
        twin = seen.setdefault(digest(settings), entry)
        if twin is entry:
            continue
        line = twin.place.line
        if twin.place.file == entry.place.file:
            where = f"line {line}"
        else:
            where = f"{twin.place.file}:{line}"
        complaint = (
            f"{entry.kind} {entry.label!r} has the same settings as {twin.label!r} ({where})"
        )
        problems.append(entry.place.problem(complaint, "remove one, or change a parameter"))
    return problems


def _upright(binding: Binding, cells: Sequence[Cell]) -> set[Entry]:
    """Return the datasets whose pictures no recipe mirrors of its own accord."""
    datasets = {cell.dataset for cell in cells if binding.found(cell.dataset, cell.dataset)}
    return {
        dataset for dataset in datasets if not binding.component(dataset, dataset).facts.mirrors
    }


def _idle_starts(binding: Binding, cells: Sequence[Cell]) -> list[Problem]:
    """Find defenses that are `on` another one but start from no model."""
    problems = []
    for cell in cells:
        for entry in cell.chain:
            if entry.on is None or not binding.found(entry, cell.dataset):
                continue
            needs = binding.component(entry, cell.dataset).needs
            if needs and "victim" not in needs:
                complaint = f"{entry.label!r} starts from no model, so that `on` does nothing"
                hint = f"leave it out: {entry.name} trains a network of its own"
                problems.append(entry.at("on").problem(complaint, hint))
    return problems


def _with_uses(resolved: Resolved) -> list[Any]:
    """Return the entries in keys of a component and of all that fills its parameters."""
    uses = {name: _with_uses(used) for name, used in resolved.uses.items()}
    return [resolved.key_entry, uses]


def _split_problems(binding: Binding, cells: Sequence[Cell]) -> list[Problem]:
    """Find splits that do not fit the data."""
    problems = []
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        if not binding.found(dataset, dataset):
            continue
        try:
            if not binding.sizes(dataset).test:
                complaint = f"{dataset.label} has no test images, which every metric needs"
                hint = f"give it some, as `bench show dataset {dataset.name}` says"
                problems.append(dataset.place.problem(complaint, hint))
        except ValueError as error:
            complaint = str(error)
            named = [word for word in re.findall(r"\w+", complaint) if word in dataset.params]
            hint = "take less, or set smaller `pool`, `validation`, `take`"
            problems.append(dataset.at(*named[:1]).problem(complaint, hint))
    return problems


def _misfits(binding: Binding, cells: Sequence[Cell]) -> list[Problem]:
    """Find recipes that do not fit the training images: a colour of other channels, batches larger
    than the set where small ones are dropped.
    """
    problems = []
    for trio in dict.fromkeys(cell.entries[:3] for cell in cells):
        dataset, _, attack = trio
        fields = binding.recipes.get(trio)
        if not fields or not binding.found(dataset, dataset):
            continue
        resolved = binding.component(attack, dataset)
        try:
            count = binding.sizes(dataset).train
        except ValueError:  # told already
            continue
        if not resolved.facts.trains or not count:
            continue
        recipe = Recipe.model_validate_json(json.dumps(fields))
        channels = binding.component(dataset, dataset).facts.channels
        uncovers = recipe.crop or recipe.rotation or recipe.cutout
        if uncovers and len(recipe.fill) not in (1, channels):
            complaint = (
                f"the recipe's fill names {len(recipe.fill)} channels, "
                f"and the images of {dataset.label} have {channels}"
            )
            place = place_of_field(binding.grid, trio, "fill")
            problems.append(place.problem(complaint, "set training.fill = [0.0]"))
        added = bool(resolved.params.get("add"))  # more images than the training set holds
        if recipe.drop_last and count < recipe.batch and not added:
            complaint = (
                f"the {count} training images of {dataset.label} make no batch of {recipe.batch}, "
                "and drop_last leaves out what is smaller"
            )
            place = place_of_field(binding.grid, trio, "batch")
            hint = f"set training.batch = {count} or less, or training.drop_last = false"
            problems.append(place.problem(complaint, hint))
    return problems


def _own_recipes(
    binding: Binding, cells: Sequence[Cell]
) -> dict[Trio, Mapping[str, Any] | str | None]:
    """Return the recipes that attacks bring themselves, by victim; victims whose attack is unknown
    are left out.
    """
    recipes: dict[Trio, Mapping[str, Any] | str | None] = {}
    for cell in cells:
        trio = (cell.dataset, cell.model, cell.attack)
        if binding.found(cell.attack, cell.dataset):
            recipes[trio] = binding.component(cell.attack, cell.dataset).recipe
    return recipes
