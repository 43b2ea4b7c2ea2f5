"""What a grid has come to: one row for each metric of each cell, also for those that failed or have
not run.

Reads the plan, and JSON files of the store; no torch, no plugin. The store may lack anything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from harness.outcomes import Outcome
from harness.report.provenance import Settings, place
from harness.store.manifest import Manifest
from harness.store.objects import Damaged, Store

if TYPE_CHECKING:
    import pandas as pd

    from harness.plan.plan import Plan, PlannedCell, Want

ROWS = "rows.json"
RESULT = "result.json"

HEAD = ("dataset", "model", "attack", "defense", "on", "victim_seed", "defense_seed")
"""The first columns of a long table; then come the swept parameters."""
BODY = ("metric", "part", "value", "unit", "status", "reason", "marks", "source")
SMALL_PRINT = ("settings", "versions", "sources", "victim", "defended", "stage")
VOLATILE = ("seconds", "log", "environment")
"""The last columns: what may differ between two runs that give the same numbers."""


@dataclass(frozen=True, slots=True)
class Row:
    """One number, or why there is none.

    `dataset` to `defense` are labels and `bases` these without what sweeps set, which is in `swept`
    (`attack.delta`); `on` is the label of the defense it starts from, or "". `part` names one of
    several numbers of a metric. `source` is "metric", or "defense" for what a defense recorded
    itself (`metric` is then the record's name). `value` is None unless `status` is DONE; TO_RUN
    means not run yet. `marks` are among "not established", "oracle", "static".

    `settings` (JSON) holds name and parameters of each component, recipe and grants; `versions` and
    `sources` (digests) are by role; `victim`, `defended`, `stage` are keys; `environment` and
    `seconds` are those of `stage`. `places` says with what torch, on what, with how many threads
    the number and all it depends on were made.
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
    bases: Mapping[str, str] = field(default_factory=dict)
    swept: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    victim: str = ""
    defended: str = ""
    stage: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    places: frozenset[str] = frozenset()

    def flat(self) -> dict[str, Any]:
        """The columns of a long table by name; swept parameters under their own names."""
        told = {name: getattr(self, name) for name in (*HEAD, *BODY, *SMALL_PRINT, *VOLATILE)}
        return {**told, **self.swept, "status": self.status.value, "marks": ", ".join(self.marks)}


def rows(plan: Plan, store: Store) -> list[Row]:
    """The rows of all cells of a plan, in the grid's order, as the plan's last `refresh` found the
    store.
    """
    reader = _Reader(plan, store)
    return [row for cell in plan.cells for row in reader.rows(cell)]


def columns(table: Iterable[Row]) -> list[str]:
    """The names of the columns that `Row.flat` fills, in their order."""
    swept = dict.fromkeys(name for row in table for name in row.swept)
    return [*HEAD, *swept, *BODY, *SMALL_PRINT, *VOLATILE]


def frame(table: Iterable[Row]) -> pd.DataFrame:
    """Rows as a long pandas table; settings, versions, sources and environment are dicts in it."""
    import pandas as pd

    table = list(table)
    return pd.DataFrame([row.flat() for row in table], columns=columns(table))


@dataclass(frozen=True)
class Standing:
    """How a stage stands for whoever waits for its result; `log` is the path of a log, or "".

    `source` is the key of the stage that failed, where this one is blocked by it.
    """

    outcome: Outcome
    reason: str = ""
    log: str = ""
    source: str = ""


class Standings:
    """How stages stand, after the store's notes of failures. Asks the store once for each."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self.store = plan, store
        self._known: dict[str, Standing] = {}

    def of(self, key: str) -> Standing:
        """DONE, or what keeps the stage from it."""
        if key not in self._known:
            self._known[key] = self._look(key)
        return self._known[key]

    def _look(self, key: str) -> Standing:
        outcome = self.plan.outcome.get(key, Outcome.TO_RUN)
        reason = self.plan.reason.get(key, "")
        if outcome is not Outcome.TO_RUN:
            return Standing(Outcome.DONE if outcome is Outcome.CACHED else outcome, reason)
        note = self.store.failure(key)
        if note is not None:
            late = note.get("status") == "timeout"
            kind = Outcome.TIMED_OUT if late else Outcome.FAILED
            return Standing(kind, str(note.get("message", "")), str(note.get("log", "")))
        for item in self.plan.graph.stages[key].inputs:
            above = self.of(item.key) if self.plan.outcome.get(item.key) is Outcome.TO_RUN else None
            if above is not None and above.outcome.is_failure:
                if above.outcome is Outcome.BLOCKED:
                    return above
                told = f"{self.plan.graph.stages[item.key].title} {above.outcome.value}: {above.reason}"
                return Standing(Outcome.BLOCKED, told, above.log, item.key)
        return Standing(Outcome.TO_RUN, reason)


@dataclass(frozen=True, slots=True)
class _Made:
    environment: Mapping[str, Any]
    seconds: float | None


class _Reader:
    """Rows of cells; what several cells share is read once."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self.store = plan, store
        self.standings = Standings(plan, store)
        self.settings = Settings(plan)
        self._tables: dict[tuple[str, str], Mapping[str, Any] | Standing] = {}
        self._made: dict[str, _Made] = {}
        self._environments: dict[str, Mapping[str, Any]] = {}
        self._latest: Mapping[str, Any] = {}
        self._places: dict[str, frozenset[str]] = {}

    def rows(self, planned: PlannedCell) -> Iterator[Row]:
        """The metrics of one cell in the grid's order, then what its defense recorded."""
        common = self._common(planned)
        for want in planned.wants:
            yield from self._metric(planned, want, common)
        if planned.defended:
            yield from self._record(planned.defended, planned, common)

    def _record(
        self, defended: str, planned: PlannedCell, common: Mapping[str, Any]
    ) -> Iterator[Row]:
        if self.standings.of(defended).outcome is not Outcome.DONE:
            return
        result = self._read(defended, RESULT)
        told = {**common, **self._how(defended), **self.settings.of(planned), "source": "defense"}
        if isinstance(result, Standing):
            yield Row(
                **told, metric="record", status=result.outcome, reason=result.reason, log=result.log
            )
            return
        for name, value in _recorded(result):
            yield Row(**told, metric=name, value=value)

    def _common(self, planned: PlannedCell) -> dict[str, Any]:
        cell = planned.cell
        entries = {entry.kind: entry for entry in cell.entries}
        missed = ("not established",) if self._misses(planned) else ()
        return {
            **{kind: entry.label for kind, entry in entries.items()},
            "on": cell.defense.on.label if cell.defense.on else "",
            "victim_seed": cell.victim_seed,
            "defense_seed": cell.defense_seed,
            "bases": {kind: entry.base for kind, entry in entries.items()},
            "swept": {
                f"{kind}.{key}": value
                for kind, entry in entries.items()
                for key, value in entry.swept.items()
            },
            "marks": (*missed, *planned.marks),
            "victim": planned.victim or "",
            "defended": planned.defended or "",
        }

    def _metric(self, planned: PlannedCell, want: Want, common: Mapping[str, Any]) -> Iterator[Row]:
        entry = next((entry for entry in self.plan.grid.metrics if entry.label == want.label), None)
        told = {**common, **self.settings.of(planned, want.metric), "metric": want.label}
        told["unit"] = want.metric.facts["unit"]
        if entry is not None:
            told["bases"] = {**common["bases"], "metric": entry.base}
            told["swept"] = {
                **common["swept"],
                **{f"metric.{key}": value for key, value in entry.swept.items()},
            }
        if want.stage is None:
            yield Row(**told, status=Outcome.INCOMPATIBLE, reason=want.reason or "")
            return
        numbers = self._read(want.stage, ROWS)
        if isinstance(numbers, Standing):
            standing = self._own(planned, numbers)
            yield Row(
                **told,
                stage=want.stage,
                status=standing.outcome,
                reason=standing.reason,
                log=standing.log,
            )
            return
        told.update(self._how(want.stage))
        for part, value in numbers.get(want.metric.called, {}).items():
            yield Row(**told, part=part, value=float(value))

    def _own(self, planned: PlannedCell, standing: Standing) -> Standing:
        """A cell whose own defense, victim or evaluation failed has failed; `blocked` is for
        somebody else's fault.
        """
        own = standing.source in (planned.defended or planned.victim, *planned.stages)
        if standing.source and (own or self.plan.graph.stages[standing.source].kind == "evaluate"):
            return self.standings.of(standing.source)
        return standing

    def _misses(self, planned: PlannedCell) -> bool:
        """Whether the undefended victim is known to miss a bound of its attack entry. Bounds are
        fractions of 100 %.
        """
        for name, (key, bound) in planned.established.items():
            numbers = self._read(key, ROWS)
            value = {} if isinstance(numbers, Standing) else numbers.get(name, {})
            if value.get("", math.inf) < 100 * bound:
                return True
        return False

    def _how(self, key: str) -> dict[str, Any]:
        """What the manifest of a stage in the store says of how it came about."""
        made = self._made_of(key)
        return {
            "stage": key,
            "environment": made.environment,
            "seconds": made.seconds,
            "places": self._made_where(key),
        }

    def _made_where(self, key: str) -> frozenset[str]:
        """Where a stage and all that it depends on were made, as far as the store still knows."""
        if key not in self._places:
            stage = self.plan.graph.stages[key]
            own = place(stage.kind, self._made_of(key).environment)
            above = {self._made_where(item.key) for item in stage.inputs}
            self._places[key] = frozenset[str]({own} if own else ()).union(*above)
        return self._places[key]

    def _made_of(self, key: str) -> _Made:
        if key not in self._made:
            self._made[key] = self._looked_up(self.plan.manifest(key))
        return self._made[key]

    def _looked_up(self, manifest: Manifest | None) -> _Made:
        """What rows tell of an object; tens of thousands were made in a few environments."""
        record = manifest.record if manifest else {}
        environment = record.get("environment") or {}
        if environment != self._latest:
            self._latest = self._environments.setdefault(json.dumps(environment), environment)
        return _Made(self._latest, record.get("seconds"))

    def _read(self, key: str, name: str) -> Mapping[str, Any] | Standing:
        """A JSON file of a stage, or how the stage stands."""
        if (key, name) not in self._tables:
            self._tables[key, name] = self._fresh(key, name)
        return self._tables[key, name]

    def _fresh(self, key: str, name: str) -> Mapping[str, Any] | Standing:
        standing = self.standings.of(key)
        if standing.outcome is not Outcome.DONE:
            return standing
        try:
            found: Mapping[str, Any] = self.store.read_json(key, name, self.plan.manifest(key))
        except Damaged as error:  # set aside since the plan looked: the next run makes it again
            return Standing(Outcome.TO_RUN, str(error))
        return found


def _recorded(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Verdict and record of a defense; what it cost is a matter of metrics."""
    for name in ("flagged", "score"):
        if result.get(name) is not None:
            yield name, float(result[name])
    for name, value in sorted(result.get("record", {}).items()):
        if name not in ("seconds", "images"):
            yield name, float(value)
