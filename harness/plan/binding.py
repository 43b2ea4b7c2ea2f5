"""A grid's entries bound to components: every entry resolved in a child, every complaint at its
line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from harness.components import DatasetFacts, MetricFacts, Reference, Task
from harness.errors import GridError, Problem
from harness.keys import canonical, digest
from harness.learn.recipes import Recipe
from harness.plan.recipes import Trio, check_fields, compose, place_of_field
from harness.registry.resolved import Fault, Request, Resolved
from harness.stages.splits import Sizes, sizes

if TYPE_CHECKING:
    from harness.grid import Cell, Entry, Grid, Place
    from harness.registry.names import Registry
    from harness.registry.resolve import Resolver

K = TypeVar("K")

PlaceOf = Callable[..., "Place"]
"""Finds where the keys below an entry or a table stand."""


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
        return self.components[_name(entry, dataset)]

    def found(self, entry: Entry, dataset: Entry) -> bool:
        """Tell whether `entry` could be resolved for `dataset`."""
        return _name(entry, dataset) in self.components

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
    components = _component_questions(grid, combinations)
    grants = _grant_questions(grid, combinations)
    established = _established_questions(combinations)
    questions = [*components.values(), *grants.values(), *established.values()]
    answers = iter(resolver.resolve_all([question.request for question in questions]))
    problems: list[Problem] = []
    binding = Binding(
        grid,
        components=_resolved(components, answers, problems),
        grants=_resolved(grants, answers, problems),
        established=_resolved(established, answers, problems),
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


# --- questions and answers ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """A component to resolve, and where the keys of its parameters stand."""

    request: Request
    place_of: PlaceOf


def _resolved(
    questions: Mapping[K, _Asked],
    answers: Iterator[Resolved | list[Fault]],
    problems: list[Problem],
) -> dict[K, Resolved]:
    """Return the next answers by the names of their questions; complaints go to `problems`, each at
    its place.
    """
    found: dict[K, Resolved] = {}
    for name, question in questions.items():
        answer = next(answers)
        if isinstance(answer, Resolved):
            found[name] = answer
            continue
        for path, complaint, hint in answer:
            hint += _several(question.request, path, hint)
            problems.append(question.place_of(*path).problem(complaint, hint))
    return found


def _several(request: Request, path: Sequence[str | int], hint: str) -> str:
    """Return what to add to a hint where a parameter was given a list and wants none: each of its
    values may have been meant.
    """
    if len(path) != 1 or not hint.startswith("expected: ") or hint.startswith("expected: a list"):
        return ""
    name = str(path[0])
    if not isinstance(request.params.get(name), list):
        return ""
    return f"; write sweep.{name} = [...] to run each of these values"


def _name(entry: Entry, dataset: Entry) -> tuple[Entry, str | None]:
    """Return the name that a component is looked up by: presets may differ from dataset to
    dataset.
    """
    return entry, dataset.name if entry.preset else None


def _component_questions(
    grid: Grid, cells: Sequence[Cell]
) -> dict[tuple[Entry, str | None], _Asked]:
    """Ask for every entry that a cell uses."""
    questions: dict[tuple[Entry, str | None], _Asked] = {}
    for cell in cells:
        for entry in (cell.dataset, cell.model, cell.attack, *cell.chain, *grid.metrics):
            name = _name(entry, cell.dataset)
            if name not in questions:
                questions[name] = _Asked(_request(*name), entry.at)
    return questions


def _request(entry: Entry, dataset: str | None) -> Request:
    base = entry.place.file.parent
    # A grid that extends another may leave a file's name to it, and stand in another folder.
    bases = {}
    for key in entry.params:
        folder = entry.at(key).file.parent
        if folder != base:
            bases[key] = folder
    return Request(entry.kind, entry.name, entry.preset, dict(entry.params), base, dataset, bases)


def _grant_questions(grid: Grid, cells: Sequence[Cell]) -> dict[str, _Asked]:
    """Ask for the datasets that grants name: a grid's own entry (by label), or a component."""
    own = {entry.label: entry for entry in grid.datasets}
    tables: list[tuple[Mapping[str, Any], PlaceOf]] = [
        (grid.defender, partial(grid.place, "defender"))
    ]
    defenses: dict[Entry, None] = {}  # a set that keeps the order
    for cell in cells:
        defenses.update(dict.fromkeys(cell.chain))
    for entry in defenses:
        tables.append((entry.grant or {}, partial(entry.at, "grant")))
    questions: dict[str, _Asked] = {}
    for table, place_of in tables:
        for need, value in table.items():
            if not isinstance(value, Mapping):
                continue
            named = value["dataset"]
            name = grant_name(named)
            if name in questions:
                continue
            if isinstance(named, str) and named in own:
                entry = own[named]
                questions[name] = _Asked(_request(entry, entry.name), entry.at)
            else:
                questions[name] = _foreign(named, partial(place_of, need, "dataset"))
    return questions


def _foreign(named: Any, place_of: PlaceOf) -> _Asked:
    """Ask for a grant's dataset that is no entry of the grid."""
    reference = Reference.read("dataset", named)
    request = Request(
        "dataset",
        reference.name,
        reference.preset,
        dict(reference.params),
        place_of().file.parent,
        reference.name,
    )
    return _Asked(request, place_of)


def grant_name(named: Any) -> str:
    """Return the name by which a grant's dataset is looked up in `Binding.grants`."""
    return canonical(named).decode()


def _established_questions(cells: Sequence[Cell]) -> dict[str, _Asked]:
    """Ask for the metrics that `established` speaks of."""
    questions: dict[str, _Asked] = {}
    for cell in cells:
        for metric in cell.attack.established:
            questions[metric] = _Asked(
                Request("metric", metric), _place_of_bound(cell.attack, metric)
            )
    return questions


def _place_of_bound(attack: Entry, metric: str) -> PlaceOf:
    def place_of(*path: str | int) -> Place:
        # Of a metric that only `established` names, the grid sets no parameter.
        return attack.at("established", metric)

    return place_of


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
