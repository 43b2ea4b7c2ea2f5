"""A grid's entries bound to components: every entry resolved in a child, every complaint at its
line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from harness.components import Task
from harness.errors import GridError, Problem
from harness.plan import recipes as schedules
from harness.stages.data import Sizes, sizes

if TYPE_CHECKING:
    from harness.grid import Cell, Entry, Grid, Place
    from harness.registry.names import Registry
    from harness.registry.resolve import Resolver
    from harness.registry.resolved import Fault, Request, Resolved

K = TypeVar("K")

Find = Callable[..., "Place"]
"""Where the keys below an entry or a table stand."""


@dataclass
class Binding:
    """What a plan asks: the component of an entry on a dataset, the recipe of a victim, the task,
    the split sizes.
    """

    grid: Grid
    components: Mapping[tuple[Entry, str | None], Resolved]
    """By entry and, where a preset may differ by dataset, the dataset's name."""
    grants: Mapping[str, Resolved]
    """Datasets that a grant takes images from, by the canonical text of what names them."""
    established: Mapping[str, Resolved]
    """The metrics that `established` speaks of, by name."""
    recipes: dict[tuple[Entry, Entry, Entry], dict[str, Any]] = field(default_factory=dict)

    def component(self, entry: Entry, dataset: Entry) -> Resolved:
        """The resolved component of `entry` in a cell on `dataset`."""
        return self.components[_name(entry, dataset)]

    def found(self, *entries: Entry) -> bool:
        """Whether all of a dataset and entries in its cells could be resolved."""
        return all(_name(entry, entries[0]) in self.components for entry in entries)

    def sizes(self, dataset: Entry) -> Sizes:
        """The sizes of the dataset's splits."""
        resolved = self.component(dataset, dataset)
        return sizes(resolved.params, resolved.facts["train_count"], resolved.facts["test_count"])

    def task(self, dataset: Entry) -> Task:
        """The classification problem that the dataset poses."""
        resolved = self.component(dataset, dataset)
        facts = resolved.facts
        shared = {name: facts[name] for name in ("classes", "height", "width", "channels")}
        return Task(resolved.name, **shared, train_count=self.sizes(dataset).train)


def bind(grid: Grid, cells: Iterable[Cell], registry: Registry, resolver: Resolver) -> Binding:
    """Resolve everything that `cells` need. Raises GridError with every problem found."""
    from harness.registry.resolved import Request

    cells = list(cells)
    wanted = {_name(entry, cell.dataset): entry for cell in cells for entry in _entries(grid, cell)}
    extra = _grant_requests(grid, cells)
    named = {name: cell.attack for cell in cells for name in cell.attack.established}
    requests = [_request(entry, dataset) for entry, dataset in wanted]
    requests += [
        *(request for request, _ in extra.values()),
        *(Request("metric", name) for name in named),
    ]
    answers = iter(resolver.resolve_all(requests))
    problems: list[Problem] = []
    binding = Binding(
        grid,
        components=_resolved(wanted, answers, lambda asked, path: asked[0].at(*path), problems),
        grants=_resolved(extra, answers, lambda asked, path: extra[asked][1](*path), problems),
        established=_resolved(
            named, answers, lambda asked, path: named[asked].at("established", asked), problems
        ),
    )
    problems += _twins(binding.components) + _sizes(binding, cells)
    binding.recipes, wrong = schedules.compose(binding, cells, registry.recipes)
    problems += wrong
    if problems:
        files = list(dict.fromkeys(problem.file for problem in problems))
        place = {problem: (files.index(problem.file), problem.line or 0) for problem in problems}
        raise GridError(sorted(place, key=lambda problem: place[problem]))
    return binding


def _resolved(
    asked: Iterable[K],
    answers: Iterator[Resolved | list[Fault]],
    place: Callable[[K, tuple[str | int, ...]], Place],
    problems: list[Problem],
) -> dict[K, Resolved]:
    """The next answers, by what was asked; complaints go to `problems`, each at its place."""
    found: dict[K, Resolved] = {}
    for one, answer in zip(
        asked, answers, strict=False
    ):  # in this order, so that the first answer too many stays
        if isinstance(answer, list):
            problems += [place(one, path).problem(what, hint) for path, what, hint in answer]
        else:
            found[one] = answer
    return found


def _entries(grid: Grid, cell: Cell) -> Iterator[Entry]:
    yield from (cell.dataset, cell.model, cell.attack, *cell.chain, *grid.metrics)


def _name(entry: Entry, dataset: Entry) -> tuple[Entry, str | None]:
    """What a component is looked up by: presets may differ from dataset to dataset."""
    return entry, dataset.name if entry.preset else None


def _request(entry: Entry, dataset: str | None) -> Request:
    from harness.registry.resolved import Request

    base = entry.place.file.parent
    # A grid that extends another may leave a file's name to it, and stand in another folder.
    folders = {key: entry.at(key).file.parent for key in entry.params}
    bases = {key: folder for key, folder in folders.items() if folder != base}
    return Request(entry.kind, entry.name, entry.preset, dict(entry.params), base, dataset, bases)


def _grant_requests(grid: Grid, cells: Sequence[Cell]) -> dict[str, tuple[Request, Find]]:
    """The datasets that grants name, each with where it stands: a grid's own entry (by label), or a
    component.
    """
    own = {entry.label: entry for entry in grid.entries if entry.kind == "dataset"}
    tables: list[tuple[Mapping[str, Any], Find]] = [
        (grid.defender, partial(grid.place, "defender"))
    ]
    defenses = dict.fromkeys(entry for cell in cells for entry in cell.chain)
    tables += [(entry.grant or {}, partial(entry.at, "grant")) for entry in defenses]
    found: dict[str, tuple[Request, Find]] = {}
    for table, find in tables:
        for need, value in table.items():
            if isinstance(value, Mapping):
                named = value["dataset"]
                mine = own.get(named) if isinstance(named, str) else None
                asked = (
                    (_request(mine, mine.name), mine.at)
                    if mine
                    else _foreign(named, partial(find, need, "dataset"))
                )
                found.setdefault(grant_name(named), asked)
    return found


def _foreign(named: Any, find: Find) -> tuple[Request, Find]:
    """A grant's dataset that is no entry of the grid."""
    from harness.components import Reference
    from harness.registry.resolved import Request

    reference = Reference.read("dataset", named)
    params, base = dict(reference.params), find().file.parent
    return Request("dataset", reference.name, reference.preset, params, base, reference.name), find


def grant_name(named: Any) -> str:
    """How a grant's dataset is looked up in `Binding.grants`."""
    from harness.keys import canonical

    return canonical(named).decode()


def _twins(components: Mapping[tuple[Entry, str | None], Resolved]) -> list[Problem]:
    """Entries that come to the same: two columns with one number, or one paid for under two names."""
    from harness.keys import digest

    seen: dict[str, Entry] = {}
    problems = []
    for (entry, dataset), resolved in components.items():
        on = entry.on.label if entry.on else None
        same = digest([_told(resolved), dataset, on, dict(entry.training), dict(entry.grant or {})])
        twin = seen.setdefault(same, entry)
        if twin is not entry:
            same_file = twin.place.file == entry.place.file
            where = (
                f"line {twin.place.line}" if same_file else f"{twin.place.file}:{twin.place.line}"
            )
            problems.append(
                entry.place.problem(
                    f"{entry.kind} {entry.label!r} has the same settings as {twin.label!r} ({where})",
                    "remove one, or change a parameter",
                )
            )
    return problems


def _told(resolved: Resolved) -> list[Any]:
    """A component and all that fills its parameters."""
    return [resolved.key_entry, {name: _told(used) for name, used in resolved.uses.items()}]


def _sizes(binding: Binding, cells: Sequence[Cell]) -> list[Problem]:
    """Splits that do not fit the data."""
    problems = []
    for dataset in dict.fromkeys(cell.dataset for cell in cells if binding.found(cell.dataset)):
        try:
            binding.sizes(dataset)
        except ValueError as error:
            named = [word for word in re.findall(r"\w+", str(error)) if word in dataset.params]
            hint = "take less, or set smaller `pool`, `validation`, `take`"
            problems.append(dataset.at(*named[:1]).problem(str(error), hint))
    return problems
