"""The axes of a table: what value a row has on each, and the rule that nothing is averaged over
without being named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.errors import BenchError
from harness.grid import Table
from harness.grid.model import KINDS, label_of, text
from harness.outcomes import Outcome
from harness.report.results import Row

SEEDS = ("victim-seed", "defense-seed")
UNSET = "–"
"""Stands where a row's component has no such parameter."""

Header = tuple[str, ...]


class Axes:
    """What a table's axes mean for its rows."""

    def __init__(self, table: Table, rows: Sequence[Row]) -> None:
        self.table = table
        self.named = {*table.rows, *table.columns, *table.over}
        self.apart = {axis for axis in self.named if "." in axis}
        """Swept parameters that are axes of their own: the labels of their components go without
        them.
        """
        self.shown = list(dict.fromkeys((*table.rows, *table.columns)))
        self.order = {axis: _numbered(self.value(row, axis) for row in rows) for axis in self.shown}

    def value(self, row: Row, axis: str) -> str:
        """The text of a row's value on an axis."""
        if axis == "seed":
            pair = row.victim_seed, row.defense_seed
            return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}.{pair[1]}"
        if axis in SEEDS:
            return str(row.victim_seed if axis == "victim-seed" else row.defense_seed)
        if axis not in KINDS:
            return _parameter(row, axis)
        swept = _swept(row, axis)
        hidden = {name.partition(".")[2] for name in self.apart if name.startswith(f"{axis}.")}
        label = str(getattr(row, axis))
        if hidden & swept.keys():
            label = label_of(
                row.bases[axis], {key: value for key, value in swept.items() if key not in hidden}
            )
        return f"{label} ({row.part})" if axis == "metric" and row.part else label

    def header(self, row: Row, axes: Iterable[str]) -> Header:
        """The row's values on several axes."""
        return tuple(self.value(row, axis) for axis in axes)

    def sorted(self, headers: Iterable[Header], axes: Sequence[str]) -> list[Header]:
        """Each header once, as the grid lists the values of each axis."""

        def rank(header: Header) -> list[int]:
            return [self.order[axis][value] for axis, value in zip(axes, header, strict=True)]

        return sorted(set(headers), key=rank)

    def check(self, group: Sequence[Row]) -> None:
        """Raise BenchError where rows that one number is to stand for differ in something the table
        does not name.
        """
        for kind in KINDS:
            if kind in self.named:
                continue
            self._same(
                group, kind, [row.bases.get(kind) or str(getattr(row, kind)) for row in group]
            )
            for key in dict.fromkeys(key for row in group for key in _swept(row, kind)):
                if f"{kind}.{key}" not in self.named:
                    self._same(
                        group,
                        f"{kind}.{key}",
                        [text(_swept(row, kind).get(key, UNSET)) for row in group],
                    )
            if kind == "metric":
                self._same(
                    group,
                    kind,
                    [f"{row.metric} ({row.part})" if row.part else row.metric for row in group],
                )
        for axis in SEEDS:
            if not self.named & {axis, "seed"}:
                self._same(group, axis, [self.value(row, axis) for row in group])

    def _same(self, group: Sequence[Row], axis: str, values: Sequence[str]) -> None:
        distinct = list(dict.fromkeys(values))
        if len(distinct) > 1:
            listed = ", ".join(distinct[:8]) + (", ..." if len(distinct) > 8 else "")
            roles = "rows or columns" if axis == "metric" else "rows, columns or over"
            problem = self.table.place.problem(
                f"averages over {axis}, which it does not name",
                f'add "{axis}" to {roles}; its values here: {listed}',
            )
            raise BenchError(str(problem))


def with_parts(rows: Sequence[Row]) -> list[Row]:
    """Rows in which a metric that gives several numbers has them all in every cell, also where it
    has none yet.
    """
    from dataclasses import replace

    parts: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.status is Outcome.DONE:
            parts.setdefault(row.metric, {})[row.part] = None
    return [
        row if row.status is Outcome.DONE else replace(row, part=part)
        for row in rows
        for part in (
            [row.part] if row.status is Outcome.DONE else parts.get(row.metric, {"": None})
        )
    ]


def _swept(row: Row, kind: str) -> dict[str, object]:
    return {
        name.partition(".")[2]: value
        for name, value in row.swept.items()
        if name.startswith(f"{kind}.")
    }


def _parameter(row: Row, axis: str) -> str:
    """A swept parameter; one that this version of a grid only sets is looked up in the settings."""
    if axis in row.swept:
        return text(row.swept[axis])
    kind, _, name = axis.partition(".")
    params = row.settings.get(kind, {}).get("params", {})
    return text(params[name]) if name in params else UNSET


def _numbered(values: Iterable[str]) -> dict[str, int]:
    return {value: number for number, value in enumerate(dict.fromkeys(values))}
