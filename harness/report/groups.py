"""Groups of rows: those that one cell of a table stands for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from harness.outcomes import Outcome
from harness.report.results import Row


@dataclass(frozen=True)
class Group:
    """The rows that one cell stands for, all of one metric.

    `computed` are those with a number, one for each that was computed. Where defense seeds vary and
    a cell does not depend on them (no defense), several rows are one and the same result: counted
    apart they would make n too large and the standard deviation too small.
    """

    rows: Sequence[Row]
    computed: Sequence[Row]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Self:
        """Group rows, and find those that were computed."""
        distinct: dict[tuple[Any, ...], Row] = {}
        for number, row in enumerate(rows):
            if row.status is Outcome.DONE:
                origin = row.stage or number  # rows that name no stage are all different
                distinct.setdefault((origin, row.metric, row.part), row)
        return cls(rows, list(distinct.values()))

    @classmethod
    def together(cls, groups: Iterable[Group]) -> Self:
        """Make one group of several."""
        rows: list[Row] = []
        computed: list[Row] = []
        for group in groups:
            rows.extend(group.rows)
            computed.extend(group.computed)
        return cls(rows, computed)

    @property
    def metric(self) -> str:
        """The label of the metric."""
        return self.rows[0].metric

    @property
    def values(self) -> list[float]:
        """The numbers that were computed."""
        return [row.value or 0.0 for row in self.computed]
