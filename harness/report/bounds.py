"""The bounds that attack entries set for their undefended victims: `established`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.plan.cells import PlannedCell
    from harness.plan.plan import Plan


class Bounds:
    """The bounds of the cells of a plan. `rows_of` returns what metrics gave in a stage, by name;
    nothing where it has no result.
    """

    def __init__(self, plan: Plan, rows_of: Callable[[str], Mapping[str, Any]]) -> None:
        self.rows_of = rows_of
        self._shown: dict[tuple[str, str], str] = {}
        """The stages that made what cells without a defense show, by victim and metric."""
        for planned in plan.cells:
            if planned.victim is None or planned.defended is not None:
                continue
            for want in planned.wants:
                if want.stage is not None:
                    self._shown[planned.victim, want.metric.called] = want.stage

    def reached(self, planned: PlannedCell) -> bool | None:
        """Tell whether a cell's undefended victim reaches its bounds, fractions of 100 %; None
        where that cannot be told. A metric that makes no sense here has no bound.
        """
        unknown = False
        for name, (stage, bound) in planned.established.items():
            scored = self._undefended(planned, name, stage)
            if scored is None:
                unknown = True
            elif isinstance(scored, Mapping) and scored.get("", 100.0) < 100 * bound:
                return False
        return None if unknown else True

    def _undefended(self, planned: PlannedCell, name: str, stage: str) -> Any:
        """Return what a metric gave of the undefended victim: what its own cell shows, else what
        `stage`, which is there to judge it, has; None where neither has it.
        """
        shown = self._shown.get((planned.victim or "", name), stage)
        for key in (shown, stage):
            numbers = self.rows_of(key)
            if name in numbers:
                return numbers[name]
        return None
