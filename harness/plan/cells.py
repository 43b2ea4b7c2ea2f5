"""From a cell to its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.components import DefenseFacts, MetricFacts
from harness.plan.attacker import victim
from harness.plan.compatibility import Objections, model_less, untrainable, verdict_only
from harness.plan.defender import defend
from harness.plan.grants import grants_of
from harness.plan.graph import Graph, Setting, Suspect
from harness.plan.judging import evaluate, measure, score
from harness.plan.titles import SEPARATOR
from harness.registry.resolved import Resolved
from harness.stages.stage import Stage
from harness.vocabulary import STAND_IN

if TYPE_CHECKING:
    from harness.grid import Cell, Entry


@dataclass(frozen=True)
class Want:
    """One metric of one cell: the stage that computes it, or why it makes no sense here."""

    label: str
    metric: Resolved[MetricFacts]
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
        """The leaves of the cell in the graph: the stages that it asks for."""
        keys = []
        if self.defended:
            keys.append(self.defended)
        for want in self.wants:
            if want.stage:
                keys.append(want.stage)
        for key, _ in self.established.values():
            keys.append(key)
        return tuple(keys)


@dataclass(frozen=True)
class Judged:
    """A model that metrics look at: the stage of its defense, if there was one, and the model that
    it started from.

    For a defense that trains from scratch the reference is the undefended victim of its cell.
    """

    suspect: Suspect
    defended: Stage | None
    reference: Judged | None


@dataclass(frozen=True)
class Combination:
    """The common part of a cell's replicates.

    `chain`: its defenses, first to last; `metrics`: component by label, with the reason why it
    makes no sense, if it does not; `incompatible`: the reason against the whole.
    """

    chain: Sequence[tuple[Entry, Resolved[DefenseFacts]]]
    components: Mapping[str, Resolved]
    marks: tuple[str, ...]
    metrics: Mapping[str, tuple[Resolved[MetricFacts], str | None]]
    incompatible: str | None


def plan_cell(graph: Graph, cell: Cell, against: Objections) -> PlannedCell:
    """Lay out the stages of a cell. Raises GridError for grants that cannot be given."""
    at = graph.setting(cell)
    name = ("combination", *cell.entries)
    shared = graph.once(name, lambda: _combination(graph, at, cell, against))
    if shared.incompatible is not None:
        return _refused(cell, at, shared, shared.incompatible)
    undefended = Judged(victim(graph, at), None, None)
    judged = undefended
    for entry, defense in shared.chain:
        grants = grants_of(graph, at, entry, defense, cell.defense_seed)
        if not defense.needs:  # the defense that is none: no stage, an alias of what it stands on
            continue
        title = f"{at.title}{SEPARATOR}{entry.label}"
        suspect = defend(graph, at, defense, title, grants, judged.suspect, cell.defense_seed)
        reference = judged if "victim" in defense.needs else undefended
        judged = Judged(suspect, suspect.stage, reference)
    return PlannedCell(
        cell,
        shared.components,
        at.recipe,
        victim=undefended.suspect.stage.key,
        defended=judged.defended.key if judged.defended else None,
        wants=_wants(graph, at, judged, shared.metrics),
        marks=shared.marks,
        established=_established(graph, at, undefended.suspect, cell),
    )


def _refused(cell: Cell, at: Setting, shared: Combination, reason: str) -> PlannedCell:
    """Return a cell that makes no sense: no stage, and one reason for all its metrics."""
    wants = []
    for label, (metric, _) in shared.metrics.items():
        wants.append(Want(label, metric, None, reason))
    return PlannedCell(cell, shared.components, at.recipe, None, None, tuple(wants), (), {}, reason)


def _combination(graph: Graph, at: Setting, cell: Cell, against: Objections) -> Combination:
    binding = graph.binding
    chain = [(entry, binding.component(entry, cell.dataset)) for entry in cell.chain]
    defenses = [defense for _, defense in chain]
    trio = (cell.dataset, cell.model, cell.attack)
    scanner = verdict_only(chain)
    of_models = {"predictions", "model"}
    metrics = {}
    for entry in binding.grid.metrics:
        metric = binding.component(entry, cell.dataset)
        reason = against.metrics.get((trio, cell.defense, entry))
        if reason is None and "trigger" in metric.needs and not at.attack.facts.has_trigger:
            reason = f"attack {at.attack.name!r} has no trigger"
        if reason is None and scanner is not None and not of_models.isdisjoint(metric.needs):
            reason = f"{scanner.label} gives a verdict and no model"
        metrics[entry.label] = metric, reason
    components: dict[str, Resolved] = {
        "dataset": at.data,
        "model": at.model,
        "attack": at.attack,
        "defense": defenses[-1],
    }
    incompatible = against.first(trio, cell.chain) or untrainable(at, defenses) or model_less(chain)
    return Combination(chain, components, _marks(at, defenses), metrics, incompatible)


def _marks(at: Setting, defenses: Sequence[Resolved[DefenseFacts]]) -> tuple[str, ...]:
    """Return what a reader must know of each row of the cell.

    That is a leak, a training set stamped afterwards, or a part in place of published weights.
    """
    needs: set[str] = set()
    stands_in = at.attack.stands_in
    for defense in defenses:
        needs.update(defense.needs)
        stands_in = stands_in or defense.stands_in
    marks = []
    if "oracle" in needs:
        marks.append("oracle")
    if "training-set" in needs and at.attack.facts.training_controlled:
        marks.append("static")
    if stands_in:
        marks.append(STAND_IN)
    return tuple(marks)


def _wants(
    graph: Graph,
    at: Setting,
    judged: Judged,
    asked: Mapping[str, tuple[Resolved[MetricFacts], str | None]],
) -> tuple[Want, ...]:
    """Lay out the metrics of a cell; those on predictions share a stage with the others of their
    distribution.
    """
    wants: dict[str, Want] = {}
    together: dict[str, dict[str, Resolved[MetricFacts]]] = {}
    for label, (metric, reason) in asked.items():
        if reason is not None:
            wants[label] = Want(label, metric, None, reason)
        elif metric.facts.measured:
            wants[label] = Want(label, metric, _measure(graph, at, judged, metric, label).key)
        else:
            together.setdefault(metric.distribution, {})[label] = metric
    for metrics in together.values():
        evaluated = evaluate(graph, at, judged.suspect)
        stage = score(graph, evaluated, judged.defended, list(metrics.values()))
        for label, metric in metrics.items():
            wants[label] = Want(label, metric, stage.key)
    return tuple(wants[label] for label in asked)


def _measure(
    graph: Graph, at: Setting, judged: Judged, metric: Resolved[MetricFacts], label: str
) -> Stage:
    """Lay out a metric on a model, downstream of the same metric on its reference where it asks for
    that.
    """
    reference = None
    if "reference" in metric.needs and judged.reference is not None:
        reference = _measure(graph, at, judged.reference, metric, label)
    return measure(graph, at, judged.suspect, judged.defended, metric, label, reference)


def _established(
    graph: Graph, at: Setting, undefended: Suspect, cell: Cell
) -> dict[str, tuple[str, float]]:
    """Return the scores of the undefended victim that the attack entry sets bounds for: metric ->
    (stage, bound).
    """
    bounds = {}
    for name, bound in cell.attack.established.items():
        if at.attack.facts.has_trigger or name == "acc":
            bounds[name] = bound
    if not bounds:
        return {}
    metrics = [graph.binding.established[name] for name in bounds]
    stage = score(graph, evaluate(graph, at, undefended), None, metrics)
    return {name: (stage.key, bound) for name, bound in bounds.items()}
