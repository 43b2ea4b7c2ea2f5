"""The results of a grid: one row for each metric of each cell, also for those that failed or have
not run.

Reads the plan, and JSON files of the store; no torch, no plugin. The store may lack anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from harness.outcomes import Outcome
from harness.report.bounds import Bounds
from harness.report.provenance import Circumstances, Place, Settings
from harness.report.quotas import Quotas
from harness.report.standings import Standing, Standings
from harness.run import claims
from harness.stages.artefacts import RESULT_FILE, ROWS_FILE
from harness.store.objects import Damaged, Store
from harness.vocabulary import STAND_IN

if TYPE_CHECKING:
    from harness.grid import Entry
    from harness.plan.cells import PlannedCell, Want
    from harness.plan.plan import Plan

NOT_JUDGED = "not judged"
"""The mark of a number whose victim cannot be told to be established or not."""
COLLAPSED = 0.95
"""Share of the clean test images from which on a model that gives them one label has collapsed."""
COMMON = 0.75
"""Share of them that may have that label for the model to have collapsed: where most have it, to
give it to all is no collapse.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One number, or why there is none.

    `dataset` to `defense` are labels and `bases` these without what sweeps set, which is in `swept`
    (`attack.delta`); `on` is the label of the defense it starts from, or "". `part` names one of
    several numbers of a metric. `source` is "metric", or "defense" for what a defense recorded
    itself (`metric` is then the record's name). `value` is None unless `status` is DONE; TO_RUN
    means not run yet. `marks` are among "not established", "not judged", "collapsed", "oracle",
    "static", "stand-in". `poisoned` is the share of the training set that the attack poisoned,
    where it did so before training; `shortfall` says that this is less than was asked for, or is
    "".

    `settings` (JSON) holds name and parameters of each component, recipe and grants, and `brief` in
    short what of them is not the default; `versions` and `sources` (digests) are by role; `victim`,
    `defended`, `stage` are keys; `environment` and `seconds` are those of `stage`. `places` says
    with what torch, on what, with how many threads the number and all it depends on were made.
    """

    dataset: str
    model: str
    attack: str
    defense: str
    on: str
    victim_seed: int
    defense_seed: int
    metric: str
    part: str = ""
    value: float | None = None
    unit: str = ""
    status: Outcome = Outcome.DONE
    reason: str = ""
    log: str = ""
    marks: tuple[str, ...] = ()
    source: Literal["metric", "defense"] = "metric"
    poisoned: float | None = None
    shortfall: str = ""
    bases: Mapping[str, str] = field(default_factory=dict)
    swept: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    brief: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    victim: str = ""
    defended: str = ""
    stage: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    places: frozenset[Place] = frozenset()


def rows(plan: Plan, store: Store) -> list[Row]:
    """Return the rows of all cells of a plan, in the grid's order, as the plan's last `refresh`
    found the store.
    """
    reader = _RowReader(plan, store)
    table: list[Row] = []
    for cell in plan.cells:
        table += reader.rows(cell)
    return table


def exit_code(table: Iterable[Row]) -> int:
    """Return the exit code of a command that shows these rows: 1 where some are lacking, or not
    judged.
    """
    for row in table:
        if row.status not in (Outcome.DONE, Outcome.INCOMPATIBLE) or NOT_JUDGED in row.marks:
            return 1
    return 0


JsonTable = Mapping[str, Any]
"""The content of a JSON file of the store."""


class _RowReader:
    """Rows of cells; what several cells share is read once."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self.store = store
        self.standings = Standings(plan, store)
        self.settings = Settings(plan)
        self.circumstances = Circumstances(plan)
        self.quotas = Quotas(plan, store)
        self._metric_entries = {entry.label: entry for entry in plan.grid.metrics}
        self._files: dict[tuple[str, str], JsonTable | Standing] = {}
        self.bounds = Bounds(plan, self._read_rows)

    def rows(self, planned: PlannedCell) -> list[Row]:
        """Return the metrics of one cell in the grid's order, then what its defense recorded."""
        shared = self._shared(planned)
        found: list[Row] = []
        for want in planned.wants:
            found += self._metric_rows(planned, want, shared)
        if planned.defended:
            found += self._record_rows(planned.defended, planned, shared, found)
        if self.bounds.reached(planned) is None:
            return [_not_judged(row) for row in found]
        return found

    def _shared(self, planned: PlannedCell) -> dict[str, Any]:
        """Return the members that all rows of a cell have in common."""
        cell = planned.cell
        members: dict[str, Any] = {
            "on": cell.defense.on.label if cell.defense.on else "",
            "victim_seed": cell.victim_seed,
            "defense_seed": cell.defense_seed,
            "victim": planned.victim or "",
            "defended": planned.defended or "",
            "marks": planned.marks,
        }
        if self._collapsed(planned):
            members["marks"] = ("collapsed", *members["marks"])
        if self.bounds.reached(planned) is False:
            members["marks"] = ("not established", *members["marks"])
        members["poisoned"] = self.quotas.poisoned(planned)
        members["shortfall"] = self.quotas.shortfall(planned)
        bases = {}
        swept = {}
        for entry in cell.entries:
            members[entry.kind] = entry.label
            bases[entry.kind] = entry.base
            swept.update(_axes_swept(entry))
        return {**members, "bases": bases, "swept": swept}

    def _metric_rows(
        self, planned: PlannedCell, want: Want, shared: Mapping[str, Any]
    ) -> Iterator[Row]:
        members = {**shared, **self.settings.of(planned, want.metric)}
        members["metric"] = want.label
        members["unit"] = want.metric.facts.unit
        if want.metric.stands_in and STAND_IN not in planned.marks:
            members["marks"] = (*members["marks"], STAND_IN)
        entry = self._metric_entries.get(want.label)
        if entry is not None:
            members["bases"] = {**shared["bases"], "metric": entry.base}
            members["swept"] = {**shared["swept"], **_axes_swept(entry)}
        if want.stage is None:
            yield Row(**members, status=Outcome.INCOMPATIBLE, reason=want.reason or "")
            return
        called = want.metric.called
        numbers = self._read(want.stage, ROWS_FILE)
        if isinstance(numbers, Standing):
            if called not in numbers.rows:
                members["stage"] = want.stage
                yield _without_number(members, self._own(planned, _of_metric(numbers, called)))
                return
            members["stage"] = want.stage
            numbers = numbers.rows
        else:
            members.update(self.circumstances.of(want.stage))
        scored = numbers.get(called)
        if isinstance(scored, str):
            yield Row(**members, status=Outcome.INCOMPATIBLE, reason=scored)
            return
        given = list(_numbers(scored))
        if not given:
            yield Row(**members, status=Outcome.FAILED, reason=f"metric {called} gave no number")
        for part, value in given:
            yield Row(**members, part=part, value=value)

    def _record_rows(
        self,
        defended: str,
        planned: PlannedCell,
        shared: Mapping[str, Any],
        measured: Sequence[Row],
    ) -> Iterator[Row]:
        """Yield what the defense recorded, but for numbers that the cell's metrics show already."""
        if self.standings.of(defended).outcome is not Outcome.DONE:
            return
        members = {**shared, **self.circumstances.of(defended), **self.settings.of(planned)}
        members["source"] = "defense"
        result = self._read(defended, RESULT_FILE)
        if isinstance(result, Standing):
            members["metric"] = "record"
            yield _without_number(members, result)
            return
        metrics = {row.metric: row.value for row in measured}
        for name, value in _recorded(result):
            if name in metrics and metrics[name] == value:
                continue
            if name in metrics:
                reason = (
                    f"the defense recorded {name!r}, which is the name of a metric of this grid"
                )
                yield Row(**members, metric=name, status=Outcome.FAILED, reason=reason)
            else:
                yield Row(**members, metric=name, value=value)

    def _own(self, planned: PlannedCell, standing: Standing) -> Standing:
        """Return the standing as this cell shows it: a cell whose own defense, victim or evaluation
        failed has failed; `blocked` is for somebody else's fault.
        """
        if not standing.source:
            return standing
        own_stages = (planned.defended or planned.victim, *planned.stages)
        is_evaluation = self.plan.graph.stages[standing.source].kind == "evaluate"
        if is_evaluation or standing.source in own_stages:
            return self.standings.of(standing.source)
        return standing

    def _collapsed(self, planned: PlannedCell) -> bool:
        """Tell whether the model is known to give one label to nearly all clean test images, of
        which clearly fewer have it.
        """
        for want in planned.wants:
            manifest = None if want.stage is None else self.plan.manifest(want.stage)
            if manifest is None:
                continue
            shares = claims.stored_facts(manifest.record).get("commonest")
            if isinstance(shares, Mapping) and _has_collapsed(shares):
                return True
        return False

    def _read_rows(self, key: str) -> JsonTable:
        """Return the rows of a stage, also those of one that failed on the way."""
        numbers = self._read(key, ROWS_FILE)
        return numbers.rows if isinstance(numbers, Standing) else numbers

    def _read(self, key: str, name: str) -> JsonTable | Standing:
        """Return a JSON file of a stage, or how the stage stands."""
        if (key, name) not in self._files:
            self._files[key, name] = self._read_anew(key, name)
        return self._files[key, name]

    def _read_anew(self, key: str, name: str) -> JsonTable | Standing:
        standing = self.standings.of(key)
        if standing.outcome is not Outcome.DONE:
            return standing
        try:
            table: JsonTable = claims.read(
                name, self.store.read(key, name, self.plan.manifest(key))
            )
        except Damaged as error:  # set aside since the plan looked: the next run makes it again
            return Standing(Outcome.TO_RUN, str(error))
        except ValueError as error:  # from a version that did not check what stages leave
            self.store.set_aside(key, str(error))
            return Standing(Outcome.TO_RUN, str(error))
        return table


def _not_judged(row: Row) -> Row:
    """Mark a number, if it is one, as one whose victim may or may not be established."""
    if row.status is not Outcome.DONE:
        return row
    return replace(row, marks=(NOT_JUDGED, *row.marks))


def _has_collapsed(shares: Mapping[str, Any]) -> bool:
    answered = shares.get("answered")
    true = shares.get("true")
    if not isinstance(answered, float) or not isinstance(true, float):
        return False
    return answered >= COLLAPSED and true <= COMMON


def _axes_swept(entry: Entry) -> dict[str, Any]:
    """Return the parameters that a sweep set, by the names that they have as axes of tables."""
    return {f"{entry.kind}.{name}": value for name, value in entry.swept.items()}


def _without_number(members: Mapping[str, Any], standing: Standing) -> Row:
    return Row(**members, status=standing.outcome, reason=standing.reason, log=standing.log)


def _of_metric(standing: Standing, called: str) -> Standing:
    """Return the standing of a stage as one of its metrics shows it: with its own reason."""
    if called not in standing.failures:
        return standing
    return replace(standing, reason=str(standing.failures[called]))


def _numbers(scored: Any) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a metric by part; none where it has a reason instead."""
    if not isinstance(scored, Mapping):
        return
    for part, value in scored.items():
        yield part, float(value)


def _recorded(result: JsonTable) -> Iterator[tuple[str, float]]:
    """Yield verdict and record of a defense; what it cost is a matter of metrics."""
    for name in ("flagged", "score"):
        if result.get(name) is not None:
            yield name, float(result[name])
    for name, value in sorted(result.get("record", {}).items()):
        if name not in ("seconds", "images"):
            yield name, float(value)
