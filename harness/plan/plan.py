"""Cells to stages, and how each stands: cached, to run, incompatible or blocked, with the reason.

Nothing is decided here by name of a method; what a component needs and declares decides what is
upstream of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from harness.components import Context, Traits
from harness.errors import GridError, NothingSelected, Problem
from harness.outcomes import Outcome
from harness.plan.binding import Binding, bind
from harness.plan.grants import grants_of
from harness.plan.graph import Graph, Setting, Suspect
from harness.stages import Stage
from harness.store.manifest import Manifest

if TYPE_CHECKING:
    from harness.grid import Cell, Entry, Grid
    from harness.registry.names import Registry
    from harness.registry.resolve import Resolver
    from harness.registry.resolved import Resolved
    from harness.sources.digests import Sources
    from harness.store.objects import Store


@dataclass(frozen=True)
class Want:
    """One metric of one cell: the stage that computes it, or why it makes no sense here."""

    label: str
    metric: Resolved
    stage: str | None
    reason: str | None = None


@dataclass(frozen=True)
class PlannedCell:
    """A cell with its stages (keys) and everything a row says beside the number.

    `defended` is None for the defense that is none; `established` are the scores of the undefended
    victim with the bounds they must reach; `incompatible` is the reason against the whole cell.
    """

    cell: Cell
    components: Mapping[str, Resolved]
    recipe: Mapping[str, Any]
    victim: str | None
    defended: str | None
    wants: tuple[Want, ...]
    marks: tuple[str, ...]
    established: Mapping[str, tuple[str, float]]
    incompatible: str | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """What the cell asks for: its leaves in the graph."""
        scored = tuple(want.stage for want in self.wants if want.stage)
        judged = tuple(key for key, _ in self.established.values())
        return (*((self.defended,) if self.defended else ()), *scored, *judged)


@dataclass
class Plan:
    """All cells and stages of a grid.

    `stages` has all of them, upstream first; `outcome` those that were looked at: what cells ask
    for, and what is upstream of a stage that must run.
    """

    grid: Grid
    cells: Sequence[PlannedCell]
    graph: Graph
    stages: dict[str, Stage] = field(default_factory=dict)
    outcome: dict[str, Outcome] = field(default_factory=dict)
    reason: dict[str, str] = field(default_factory=dict)
    _held: dict[str, Manifest] = field(default_factory=dict, repr=False)

    def refresh(self, store: Store, wanted: Iterable[str] | None = None) -> None:
        """See what the store holds, and walk back from `wanted` (default: what cells ask for) to
        what must run.

        An object is stale when anything that it was made from, however far upstream, has other
        content now; what has been deleted is no change. A stage that nobody downstream needs does
        not run, even where its object is gone.
        """
        self.stages, self.outcome, self.reason = self.graph.stages, {}, {}
        stale = self._stale(store)
        failed = store.failed()
        pending = (
            [key for cell in self.cells for key in cell.stages] if wanted is None else list(wanted)
        )
        while pending:
            key = pending.pop()
            if key in self.outcome:
                continue
            if key in self._held and key not in stale:
                self.outcome[key] = Outcome.CACHED
                continue
            self._look(key, store.failure(key) if key in failed else None, stale)
            if self.outcome[key] is Outcome.TO_RUN:
                pending += [item.key for item in self.stages[key].inputs]
        for key, stage in self.stages.items():
            self._inherit(key, stage)

    def manifest(self, key: str) -> Manifest | None:
        """Files and record, and no more, of a stage that the store held whole. A new one each time:
        of thousands, what is parsed need not be kept.
        """
        manifest = self._held.get(key)
        return manifest and manifest.only("files", "record")

    def _stale(self, store: Store) -> dict[str, str]:
        """Note the manifests of whole objects; the keys of those that are stale, with the reason."""
        held = store.held(self.stages)
        inner = {item.key for key in held for item in self.stages[key].inputs}
        # What is upstream comes first, so that each content is looked at once; None: not there, or
        # not whole.
        digests: dict[str, str | None] = dict.fromkeys(inner)
        stale: dict[str, str] = {}
        self._held = {}
        for key, stage in self.stages.items():
            manifest = store.manifest(key) if key in held else None
            if manifest is None:
                continue
            self._held[key] = manifest.only("files", "record")
            if key in inner:
                digests[key] = manifest.digest
            changed = store.outdated(manifest, digests) or [
                item.role for item in stage.inputs if item.key in stale
            ]
            if changed:
                stale[key] = f"its {', '.join(changed)} has other content now"
        return stale

    def _look(self, key: str, failure: Mapping[str, Any] | None, stale: Mapping[str, str]) -> None:
        """How a stage without a valid object stands."""
        self.outcome[key] = Outcome.TO_RUN
        if key in stale:
            self.reason[key] = stale[key]
        elif failure is not None and failure.get("status") == "incompatible":
            self.outcome[key], self.reason[key] = Outcome.INCOMPATIBLE, failure["message"]
        elif failure is not None:
            self.reason[key] = f"failed before: {failure.get('message', '')}"
        else:
            self.reason[key] = "not in the store"

    def _inherit(self, key: str, stage: Stage) -> None:
        """What stands on an incompatible stage is incompatible."""
        if self.outcome.get(key) is not Outcome.TO_RUN:
            return
        for item in stage.inputs:
            if self.outcome.get(item.key) is Outcome.INCOMPATIBLE:
                self.outcome[key], self.reason[key] = Outcome.INCOMPATIBLE, self.reason[item.key]
                return


def build(
    grid: Grid, cells: Iterable[Cell], registry: Registry, resolver: Resolver, sources: Sources
) -> Plan:
    """Bind the grid's entries and lay out the stages of `cells`. Raises GridError or
    NothingSelected.
    """
    chosen = list(cells)
    if not chosen:
        raise NothingSelected(f"{grid.path}: no cell is selected")
    binding = bind(grid, chosen, registry, resolver)
    graph = Graph(binding, sources.of)
    reasons = incompatible(binding, chosen, resolver)
    planned: list[PlannedCell] = []
    problems: dict[Problem, None] = {}
    for cell in chosen:
        try:
            planned.append(_cell(graph, cell, reasons))
        except GridError as error:
            problems.update(dict.fromkeys(error.problems))
    if problems:
        raise GridError(list(problems))
    return Plan(grid, planned, graph)


def setting(binding: Binding, cell: Cell) -> Setting:
    """What the stages of a cell share."""
    return Setting(
        cell.dataset,
        binding.component(cell.dataset, cell.dataset),
        binding.component(cell.model, cell.dataset),
        binding.component(cell.attack, cell.dataset),
        binding.recipes[cell.dataset, cell.model, cell.attack],
        binding.task(cell.dataset),
        cell.victim_seed,
    )


@dataclass(frozen=True)
class Combination:
    """What the replicates of a cell share: its defenses, first to last, and why it makes no sense,
    if it does not.

    `metrics`: component by label, and the reason why it makes no sense.
    """

    chain: Sequence[tuple[Entry, Resolved]]
    components: Mapping[str, Resolved]
    marks: tuple[str, ...]
    metrics: Mapping[str, tuple[Resolved, str | None]]
    incompatible: str | None

    @classmethod
    def of(
        cls, binding: Binding, at: Setting, cell: Cell, reasons: Mapping[tuple[Any, ...], str]
    ) -> Self:
        """`reasons` as `incompatible` has them."""
        chain = [(entry, binding.component(entry, cell.dataset)) for entry in cell.chain]
        defenses = [defense for _, defense in chain]
        trio = (cell.dataset, cell.model, cell.attack)
        against = [reasons.get((*trio, None)), *(reasons.get((*trio, entry)) for entry, _ in chain)]
        metrics = {}
        for entry in binding.grid.metrics:
            metric, reason = (
                binding.component(entry, cell.dataset),
                reasons.get((*trio, cell.defense, entry)),
            )
            if reason is None and "trigger" in metric.needs and not at.attack.facts["has_trigger"]:
                reason = f"attack {at.attack.name!r} has no trigger"
            metrics[entry.label] = metric, reason
        components = {
            "dataset": at.data,
            "model": at.model,
            "attack": at.attack,
            "defense": defenses[-1],
        }
        marks = _marks(at, defenses)
        return cls(
            chain,
            components,
            marks,
            metrics,
            next(filter(None, [*against, untrainable(at, defenses)]), None),
        )


def _cell(graph: Graph, cell: Cell, reasons: Mapping[tuple[Any, ...], str]) -> PlannedCell:
    at = graph.once(
        ("setting", cell.dataset, cell.model, cell.attack, cell.victim_seed),
        lambda: setting(graph.binding, cell),
    )
    shared = graph.once(
        ("combination", *cell.entries), lambda: Combination.of(graph.binding, at, cell, reasons)
    )
    if against := shared.incompatible:
        wants = tuple(
            Want(label, metric, None, against) for label, (metric, _) in shared.metrics.items()
        )
        return PlannedCell(cell, shared.components, at.recipe, None, None, wants, (), {}, against)
    victim = judged = Judged(graph.victim(at), None, None)
    for entry, defense in shared.chain:
        grants = grants_of(graph, at, entry, defense, cell.defense_seed)
        if not defense.needs:  # the defense that is none: no stage, an alias of what it stands on
            continue
        suspect = graph.defend(at, defense, grants, judged.suspect, cell.defense_seed)
        judged = Judged(suspect, suspect.stage, judged if "victim" in defense.needs else victim)
    wants = _wants(graph, at, judged, shared.metrics)
    established = _established(graph, at, victim.suspect, cell)
    made = victim.suspect.stage.key, judged.defended.key if judged.defended else None
    return PlannedCell(cell, shared.components, at.recipe, *made, wants, shared.marks, established)


def untrainable(at: Setting, chain: Sequence[Resolved]) -> str | None:
    """Why a dataset that has no training images will not do; None where it has some, or nobody
    wants them.
    """
    if at.task.train_count:
        return None
    wanting = [defense for defense in chain if "training-set" in defense.needs]
    if at.attack.facts["trains"]:
        wanting.insert(0, at.attack)
    if not wanting:
        return None
    return f"dataset {at.data.name!r} has no training images, which {wanting[0].kind} {wanting[0].name!r} needs"


@dataclass(frozen=True)
class Judged:
    """A model that metrics look at: the stage of its defense, if there was one, and the model that
    it started from.

    For a defense that trains from scratch the reference is the undefended victim of its cell.
    """

    suspect: Suspect
    defended: Stage | None
    reference: Judged | None


def _wants(
    graph: Graph, at: Setting, judged: Judged, asked: Mapping[str, tuple[Resolved, str | None]]
) -> tuple[Want, ...]:
    """The metrics of a cell; those on predictions share a stage with the others of their
    distribution.
    """
    wants: dict[str, Want] = {}
    together: dict[str, dict[str, Resolved]] = defaultdict(dict)
    for label, (metric, reason) in asked.items():
        if reason is not None:
            wants[label] = Want(label, metric, None, reason)
        elif metric.facts["measured"]:
            wants[label] = Want(label, metric, _measure(graph, at, judged, metric).key)
        else:
            together[metric.distribution][label] = metric
    for metrics in together.values():
        stage = graph.score(
            graph.evaluate(at, judged.suspect), judged.defended, list(metrics.values())
        )
        wants.update({label: Want(label, metric, stage.key) for label, metric in metrics.items()})
    return tuple(wants[label] for label in asked)


def _measure(graph: Graph, at: Setting, judged: Judged, metric: Resolved) -> Stage:
    """A metric on a model, downstream of the same metric on its reference where that is asked for."""
    reference = None
    if "reference" in metric.needs and judged.reference is not None:
        reference = _measure(graph, at, judged.reference, metric)
    return graph.measure(at, judged.suspect, judged.defended, metric, reference)


def _marks(at: Setting, chain: Sequence[Resolved]) -> tuple[str, ...]:
    """What a reader must know of the row: a leak, or a training set stamped afterwards."""
    needs = {need for defense in chain for need in defense.needs}
    static = "training-set" in needs and at.attack.facts["training_controlled"]
    return (*(("oracle",) if "oracle" in needs else ()), *(("static",) if static else ()))


def _established(
    graph: Graph, at: Setting, victim: Suspect, cell: Cell
) -> dict[str, tuple[str, float]]:
    """The scores of the undefended victim that the attack entry sets bounds for: metric -> (stage,
    bound).
    """
    stated = cell.attack.established.items()
    bounds = {
        name: bound for name, bound in stated if at.attack.facts["has_trigger"] or name == "acc"
    }
    if not bounds:
        return {}
    stage = graph.score(
        graph.evaluate(at, victim), None, [graph.binding.established[name] for name in bounds]
    )
    return {name: (stage.key, bound) for name, bound in bounds.items()}


def incompatible(
    binding: Binding, cells: Sequence[Cell], resolver: Resolver
) -> dict[tuple[Any, ...], str]:
    """Why combinations make no sense: every component that has an opinion is asked, once a
    combination.

    Keys: (dataset, model, attack, None) for the victim; with the defense instead of None; with
    defense and metric.
    """
    asked: dict[tuple[Any, ...], tuple[Resolved, dict[str, Any]]] = {}

    def ask(entry: Entry, name: tuple[Any, ...], context: dict[str, Any]) -> None:
        resolved = binding.component(entry, name[0])
        if resolved.checks:
            asked[name] = resolved, context

    trios: dict[tuple[Entry, ...], dict[str, Any]] = {}
    # Replicates ask the same questions.
    for cell in {cell.entries: cell for cell in cells}.values():
        dataset, trio = cell.dataset, (cell.dataset, cell.model, cell.attack)
        if trio not in trios:
            traits = {entry.kind: _traits(binding.component(entry, dataset)) for entry in trio[1:]}
            trios[trio] = asdict(Context(binding.task(dataset), **traits))
            for entry in trio[1:]:
                ask(entry, (*trio, None, entry), trios[trio])
        context = trios[trio]
        for entry in cell.chain:
            context = {**context, "defense": asdict(_traits(binding.component(entry, dataset)))}
            ask(entry, (*trio, entry, entry), context)
        for entry in binding.grid.metrics:
            ask(entry, (*trio, cell.defense, entry), context)
    answers = dict(zip(asked, resolver.compatible_all(list(asked.values())), strict=True))
    reasons: dict[tuple[Any, ...], str] = {}
    for (*trio_, defense, entry), reason in answers.items():
        if reason is not None:
            name = (*trio_, defense, entry) if entry.kind == "metric" else (*trio_, defense)
            reasons.setdefault(name, f"{entry.label}: {reason}")
    return reasons


def _traits(resolved: Resolved) -> Traits:
    return Traits(resolved.kind, resolved.name, resolved.params, resolved.facts)
