"""The axes of a table: what value a row has on each, and the rule that nothing is averaged over
without being named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.errors import BenchError
from harness.grid import Table
from harness.grid.model import label_of, text
from harness.outcomes import Outcome
from harness.report.results import Row
from harness.vocabulary import ENTRY_KINDS

SEEDS = ("victim-seed", "defense-seed")
UNSET = "–"
"""Stands where a row's component has no such parameter."""
LISTED = 8
"""Values that an error message names at most."""

Header = tuple[str, ...]


class Axes:
    """The meaning of a table's axes for its rows."""

    def __init__(self, table: Table, rows: Sequence[Row]) -> None:
        self.table = table
        self.named = {*table.rows, *table.columns, *table.over}
        self.apart: dict[str, set[str]] = {}
        """By kind of component, the swept parameters that are axes of their own: labels go without
        them.
        """
        for axis in self.named:
            kind, dot, parameter = axis.partition(".")
            if dot:
                self.apart.setdefault(kind, set()).add(parameter)
        self.order: dict[str, dict[str, int]] = {}
        """By axis, the place of each value, as the rows have them one after another."""
        for axis in (*table.rows, *table.columns):
            places: dict[str, int] = {}
            for row in rows:
                places.setdefault(self.value(row, axis), len(places))
            self.order[axis] = places

    def value(self, row: Row, axis: str) -> str:
        """Return the text of a row's value on an axis."""
        if axis == "seed":
            if row.victim_seed == row.defense_seed:
                return str(row.victim_seed)
            return f"{row.victim_seed}.{row.defense_seed}"
        if axis == "victim-seed":
            return str(row.victim_seed)
        if axis == "defense-seed":
            return str(row.defense_seed)
        if axis not in ENTRY_KINDS:
            return _parameter(row, axis)
        label = self._label(row, axis)
        if axis == "metric":
            return _and_part(label, row)
        return label

    def header(self, row: Row, axes: Iterable[str]) -> Header:
        """Return the row's values on several axes."""
        return tuple(self.value(row, axis) for axis in axes)

    def sorted(self, headers: Iterable[Header], axes: Sequence[str]) -> list[Header]:
        """Return each header once, in the order in which the grid lists the values of each axis."""

        def rank(header: Header) -> list[int]:
            ranks = []
            for axis, value in zip(axes, header, strict=True):
                ranks.append(self.order[axis][value])
            return ranks

        return sorted(set(headers), key=rank)

    def check(self, group: Sequence[Row]) -> None:
        """Raise BenchError if rows that share one place of the table differ in something that the
        table does not name.
        """
        for kind in ENTRY_KINDS:
            if kind not in self.named:
                self._check_kind(group, kind)
        if "seed" in self.named:
            return
        for axis in SEEDS:
            if axis not in self.named:
                self._check_same(group, axis, [self.value(row, axis) for row in group])

    def _check_kind(self, group: Sequence[Row], kind: str) -> None:
        bases = []
        parameters: dict[str, None] = {}
        for row in group:
            bases.append(row.bases.get(kind) or str(getattr(row, kind)))
            parameters.update(dict.fromkeys(_swept(row, kind)))
        self._check_same(group, kind, bases)
        for parameter in parameters:
            axis = f"{kind}.{parameter}"
            if axis in self.named:
                continue
            values = []
            for row in group:
                value = _swept(row, kind).get(parameter, UNSET)
                values.append(text(value))
            self._check_same(group, axis, values)
        if kind == "metric":
            self._check_same(group, kind, [_and_part(row.metric, row) for row in group])

    def _check_same(self, group: Sequence[Row], axis: str, values: Sequence[str]) -> None:
        distinct = list(dict.fromkeys(values))
        if len(distinct) < 2:
            return
        listed = ", ".join(distinct[:LISTED])
        if len(distinct) > LISTED:
            listed += ", ..."
        roles = "rows or columns" if axis == "metric" else "rows, columns or over"
        problem = self.table.place.problem(
            f"averages over {axis}, which it does not name",
            f'add "{axis}" to {roles}; its values here: {listed}',
        )
        raise BenchError(str(problem))

    def _label(self, row: Row, kind: str) -> str:
        """Return the label of a row's component, without the parameters that have an axis of their
        own.
        """
        label = str(getattr(row, kind))
        swept = _swept(row, kind)
        apart = self.apart.get(kind, set())
        if apart.isdisjoint(swept):
            return label
        for parameter in apart:
            swept.pop(parameter, None)
        return label_of(row.bases[kind], swept)


def with_parts(rows: Sequence[Row]) -> list[Row]:
    """Return rows in which a metric that gives several numbers has them all in every cell, even
    where it has none yet.
    """
    parts: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.status is Outcome.DONE:
            parts.setdefault(row.metric, {})[row.part] = None
    completed = []
    for row in rows:
        if row.status is Outcome.DONE:
            completed.append(row)
            continue
        for part in parts.get(row.metric, {"": None}):
            with_part = replace(row, part=part)
            completed.append(with_part)
    return completed


def _and_part(metric: str, row: Row) -> str:
    return f"{metric} ({row.part})" if row.part else metric


def _swept(row: Row, kind: str) -> dict[str, object]:
    """Return the parameters of one component that sweeps set, by their own names."""
    swept: dict[str, object] = {}
    for axis, value in row.swept.items():
        owner, _, parameter = axis.partition(".")
        if owner == kind:
            swept[parameter] = value
    return swept


def _parameter(row: Row, axis: str) -> str:
    """Return a parameter as text. If no sweep set it, as in another version of the grid, it is
    looked up in the settings.
    """
    if axis in row.swept:
        return text(row.swept[axis])
    kind, _, name = axis.partition(".")
    params = row.settings.get(kind, {}).get("params", {})
    if name not in params:
        return UNSET
    return text(params[name])
