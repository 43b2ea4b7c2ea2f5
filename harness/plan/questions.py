"""The questions that a grid asks: which components to resolve, each with the place of its keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from harness.components import Reference
from harness.errors import Problem
from harness.keys import canonical
from harness.registry.resolved import Fault, Request, Resolved

if TYPE_CHECKING:
    from harness.grid import Cell, Entry, Grid, Place

K = TypeVar("K")

PlaceOf = Callable[..., "Place"]
"""Finds where the keys below an entry or a table stand."""


@dataclass(frozen=True)
class Asked:
    """A component to resolve, and where the keys of its parameters stand."""

    request: Request
    place_of: PlaceOf


def sort_answers(
    questions: Mapping[K, Asked],
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


def name_of(entry: Entry, dataset: Entry) -> tuple[Entry, str | None]:
    """Return the name that a component is looked up by: presets may differ from dataset to
    dataset.
    """
    return entry, dataset.name if entry.preset else None


def component_questions(grid: Grid, cells: Sequence[Cell]) -> dict[tuple[Entry, str | None], Asked]:
    """Ask for every entry that a cell uses."""
    questions: dict[tuple[Entry, str | None], Asked] = {}
    for cell in cells:
        for entry in (cell.dataset, cell.model, cell.attack, *cell.chain, *grid.metrics):
            name = name_of(entry, cell.dataset)
            if name not in questions:
                questions[name] = Asked(_request(*name), entry.at)
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


def grant_questions(grid: Grid, cells: Sequence[Cell]) -> dict[str, Asked]:
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
    questions: dict[str, Asked] = {}
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
                questions[name] = Asked(_request(entry, entry.name), entry.at)
            else:
                questions[name] = _foreign(named, partial(place_of, need, "dataset"))
    return questions


def _foreign(named: Any, place_of: PlaceOf) -> Asked:
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
    return Asked(request, place_of)


def grant_name(named: Any) -> str:
    """Return the name by which a grant's dataset is looked up in `Binding.grants`."""
    return canonical(named).decode()


def established_questions(cells: Sequence[Cell]) -> dict[str, Asked]:
    """Ask for the metrics that `established` speaks of."""
    questions: dict[str, Asked] = {}
    for cell in cells:
        for metric in cell.attack.established:
            questions[metric] = Asked(
                Request("metric", metric), _place_of_bound(cell.attack, metric)
            )
    return questions


def _place_of_bound(attack: Entry, metric: str) -> PlaceOf:
    def place_of(*path: str | int) -> Place:
        # Of a metric that only `established` names, the grid sets no parameter.
        return attack.at("established", metric)

    return place_of
