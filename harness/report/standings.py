"""The standing of stages, after the plan and the store's notes of failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.outcomes import Outcome

if TYPE_CHECKING:
    from harness.plan.plan import Plan
    from harness.store.objects import Store


@dataclass(frozen=True)
class Standing:
    """The standing of a stage for whoever waits for its result; `log` is the path of a log, or "".

    `source` is the key of the stage that failed, where this one is blocked by it. `rows` is what
    other metrics of a failed stage gave, as in `rows.json`; `failures` why each one failed.
    """

    outcome: Outcome
    reason: str = ""
    log: str = ""
    source: str = ""
    rows: Mapping[str, Any] = field(default_factory=dict)
    failures: Mapping[str, Any] = field(default_factory=dict)


class Standings:
    """The standings of a plan's stages. Asks the store once for each."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self.store = store
        self._known: dict[str, Standing] = {}
        self._kept = frozenset(store.checkpoints.held())

    def of(self, key: str) -> Standing:
        """Return DONE, or what keeps the stage from it."""
        if key not in self._known:
            self._known[key] = self._look(key)
        return self._known[key]

    def _look(self, key: str) -> Standing:
        outcome = self.plan.outcome.get(key, Outcome.TO_RUN)
        reason = self.plan.reason.get(key, "")
        if outcome is Outcome.CACHED:
            return Standing(Outcome.DONE, reason)
        if outcome is not Outcome.TO_RUN:
            return Standing(outcome, reason)
        note = self.store.failure(key)
        if note is not None:
            is_late = note.get("status") == "timeout"
            failure = Outcome.TIMED_OUT if is_late else Outcome.FAILED
            return Standing(
                failure,
                str(note.get("message", "")),
                str(note.get("log", "")),
                rows=_table(note.get("rows")),
                failures=_table(note.get("failures")),
            )
        return self._paused(key) or self._held_up(key) or Standing(Outcome.TO_RUN, reason)

    def _paused(self, key: str) -> Standing | None:
        """Return the standing of a stage that was stopped on the way; None for any other."""
        if key not in self._kept or key in self.store.lives():
            return None
        manifest = self.store.checkpoints.manifest(key)
        if manifest is None:
            return None
        return Standing(Outcome.PAUSED, f"kept at {manifest.record['place']}")

    def _held_up(self, key: str) -> Standing | None:
        """Return the standing of a stage that waits for one that failed or was paused; None if
        there is none upstream.
        """
        waiting = None
        for item in self.plan.graph.stages[key].inputs:
            if self.plan.outcome.get(item.key) is not Outcome.TO_RUN:
                continue
            above = self.of(item.key)
            if above.outcome is Outcome.BLOCKED:
                return above
            if above.outcome.is_failure:
                stage = self.plan.graph.stages[item.key]
                reason = f"{stage.kind} ({stage.title}) {above.outcome.value}: {above.reason}"
                return Standing(Outcome.BLOCKED, reason, above.log, item.key)
            if above.outcome is Outcome.PAUSED:
                waiting = above
        return waiting


def _table(value: Any) -> Mapping[str, Any]:
    """Return what a stage wrote where a table is expected; nothing where it is something else."""
    return value if isinstance(value, Mapping) else {}
