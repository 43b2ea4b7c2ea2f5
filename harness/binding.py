"""A grid's entries bound to components: every entry resolved in a child, every complaint at its line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from harness.components import Task
from harness.errors import GridError, Problem, UnknownName, suggest
from harness.stages import identity
from harness.stages.data import Sizes, sizes

if TYPE_CHECKING:
    from harness.grid import Cell, Entry, Grid, Place
    from harness.registry import Registry
    from harness.resolve import Fault, Request, Resolved, Resolver

K = TypeVar("K")


@dataclass
class Binding:
    """What a plan asks: the component of an entry on a dataset, the recipe of a victim, the task, the split sizes."""

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
        return self.components[entry, dataset.name if entry.preset else None]

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
    from harness.resolve import Request

    cells = list(cells)
    wanted = _wanted(grid, cells)
    extra = _grant_requests(grid, cells)
    named = {name: cell.attack for cell in cells for name in cell.attack.established}
    requests = [_request(grid, entry, dataset) for entry, dataset in wanted]
    requests += [*extra.values(), *(Request("metric", name, None, {}, grid.path.parent, None) for name in named)]
    answers = iter(resolver.resolve_all(requests))
    problems: list[Problem] = []
    binding = Binding(
        grid,
        components=_resolved(wanted, answers, lambda asked, path: asked[0].at(*path), problems),
        grants=_resolved(extra, answers, lambda asked, path: grid.place("defender"), problems),
        established=_resolved(named, answers, lambda asked, path: named[asked].at("established", asked), problems),
    )
    problems += _twins(binding.components)
    if not problems:
        problems += _sizes(binding, cells) + _recipes(binding, cells, registry)
    if problems:
        raise GridError(list(dict.fromkeys(problems)))
    return binding


def _resolved(
    asked: Iterable[K],
    answers: Iterator[Resolved | list[Fault]],
    place: Callable[[K, tuple[str | int, ...]], Place],
    problems: list[Problem],
) -> dict[K, Resolved]:
    """The next answers, by what was asked; complaints go to `problems`, each at its place."""
    found: dict[K, Resolved] = {}
    for one, answer in zip(asked, answers, strict=False):  # in this order, so that the first answer too many stays
        if isinstance(answer, list):
            problems += [place(one, path).problem(what, hint) for path, what, hint in answer]
        else:
            found[one] = answer
    return found


def _wanted(grid: Grid, cells: Sequence[Cell]) -> list[tuple[Entry, str | None]]:
    """Each entry once, or once a dataset name where it has a preset."""
    found: dict[tuple[Entry, str | None], None] = {}
    for cell in cells:
        for entry in (cell.dataset, cell.model, cell.attack, *cell.chain, *grid.metrics):
            found[entry, cell.dataset.name if entry.preset else None] = None
    return list(found)


def _request(grid: Grid, entry: Entry, dataset: str | None) -> Request:
    from harness.resolve import Request

    return Request(entry.kind, entry.name, entry.preset, dict(entry.params), entry.place.file.parent, dataset)


def _grant_requests(grid: Grid, cells: Sequence[Cell]) -> dict[str, Request]:
    """The datasets that grants name: as a grid's own entry (by label) or as a component."""
    from harness.components import Reference
    from harness.resolve import Request

    own = {entry.label: entry for entry in grid.entries if entry.kind == "dataset"}
    tables = [grid.defender, *(entry.grant or {} for cell in cells for entry in cell.chain)]
    found: dict[str, Request] = {}
    for value in (value for table in tables for value in table.values() if isinstance(value, Mapping)):
        named = value["dataset"]
        if isinstance(named, str) and named in own:
            found[grant_name(named)] = _request(grid, own[named], None)
            continue
        reference = Reference.read("dataset", named)
        found[grant_name(named)] = Request(
            "dataset", reference.name, reference.preset, dict(reference.params), grid.path.parent, None
        )
    return found


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
        told = [identity(resolved), {name: identity(used) for name, used in resolved.uses.items()}, dataset, on]
        same = digest([*told, dict(entry.training), dict(entry.grant or {})])
        twin = seen.setdefault(same, entry)
        if twin is not entry:
            same_file = twin.place.file == entry.place.file
            where = f"line {twin.place.line}" if same_file else f"{twin.place.file}:{twin.place.line}"
            problems.append(
                entry.place.problem(
                    f"{entry.kind} {entry.label!r} has the same settings as {twin.label!r} ({where})",
                    "remove one, or change a parameter",
                )
            )
    return problems


def _sizes(binding: Binding, cells: Sequence[Cell]) -> list[Problem]:
    """Splits that do not fit the data."""
    problems = []
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        try:
            binding.sizes(dataset)
        except ValueError as error:
            problems.append(dataset.place.problem(str(error), "take less, or set smaller `pool`, `validation`, `take`"))
    return problems


def _recipes(binding: Binding, cells: Sequence[Cell], registry: Registry) -> list[Problem]:
    """Compose the recipe of every victim: base, then single fields from the general to the particular."""
    problems: list[Problem] = []
    for cell in cells:
        trio = (cell.dataset, cell.model, cell.attack)
        if trio in binding.recipes:
            continue
        attack = binding.component(cell.attack, cell.dataset)
        try:
            fields = _base(binding.grid, trio, attack, registry)
        except UnknownName as error:
            named = [entry for entry in reversed(trio) if "recipe" in entry.training]
            place = named[0].at("training", "recipe") if named else binding.grid.place("training", "recipe")
            problems.append(place.problem(str(error)))
            continue
        origin: dict[str, Any] = {}
        layers: list[tuple[Mapping[str, Any], Any]] = [(binding.grid.training, _Training(binding.grid))]
        layers += [(entry.training, _Nested(entry)) for entry in trio]
        for layer, places in layers:
            for name, value in layer.items():
                if name != "recipe":
                    fields[name], origin[name] = value, places
        binding.recipes[trio] = _validated(fields, origin, binding.grid, problems)
    return problems


@dataclass(frozen=True)
class _Training:
    """Where a field of the grid's `[training]` stands."""

    grid: Grid

    def at(self, name: str) -> Any:
        return self.grid.place("training", name)


@dataclass(frozen=True)
class _Nested:
    """Where a field of an entry's `training` stands."""

    entry: Entry

    def at(self, name: str) -> Any:
        return self.entry.at("training", name)


def _base(grid: Grid, trio: Sequence[Entry], attack: Resolved, registry: Registry) -> dict[str, Any]:
    """The recipe that an entry names, else the attack's own, else the grid's, else the default."""
    named = [entry.training["recipe"] for entry in reversed(trio) if "recipe" in entry.training]
    chosen = next(iter(named), attack.recipe if attack.recipe is not None else grid.training.get("recipe"))
    if isinstance(chosen, Mapping):
        return dict(chosen)
    if chosen is None:
        return {}
    if chosen not in registry.recipes:
        raise UnknownName("recipe", chosen, registry.recipes)
    return dict(registry.recipes[chosen])


def _validated(
    fields: Mapping[str, Any], origin: Mapping[str, Any], grid: Grid, problems: list[Problem]
) -> dict[str, Any]:
    """The recipe with all its fields, as JSON; what is wrong with it goes to `problems`."""
    import json

    from pydantic import ValidationError

    from harness.learn.recipes import Recipe

    try:
        return Recipe.model_validate_json(json.dumps(fields)).model_dump(mode="json")
    except ValidationError as error:
        for item in error.errors():
            name = str(item["loc"][0]) if item["loc"] else ""
            place = origin[name].at(name) if name in origin else grid.place("training")
            if item["type"] == "extra_forbidden":
                problems.append(place.problem("no field of a recipe", suggest(name, list(Recipe.model_fields))))
            else:
                problems.append(place.problem(f"{item['msg']} (got {item.get('input')!r})"))
        return {}
