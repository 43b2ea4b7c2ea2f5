"""Numbers of an earlier report beside those of today: the CSV of `bench report` as a reference; and
which kind of reference a file is.

Lines belong to a row by dataset, model, attack, defense, `on`, metric and part, all as labels. Of
several replicates, the mean stands.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from harness.errors import BenchError
from harness.grid import Table
from harness.outcomes import Outcome
from harness.report.reference import PaperNumber, PaperTable, header_of, lines_of
from harness.report.results import Row
from harness.report.style import Style
from harness.vocabulary import CELL_KINDS

NEEDED = (*CELL_KINDS, "victim_seed", "defense_seed", "metric", "value", "status")
"""Columns of a report that are read; `on`, `part` and `source` are, too, where they are there."""
SEEDS: Mapping[str, tuple[str, ...]] = {
    "seed": ("victim_seed", "defense_seed"),
    "victim-seed": ("victim_seed",),
    "defense-seed": ("defense_seed",),
}
"""The columns that tell apart what an axis of seeds does."""

Name = tuple[str, ...]


class Reference(Protocol):
    """The numbers of a file beside those of a table."""

    @property
    def path(self) -> Path:
        """The file."""

    def of(self, rows: Sequence[Row]) -> PaperNumber:
        """Return the number that stands for all of `rows`, or why there is none."""

    def average(self, groups: Sequence[Sequence[Row]], axes: Sequence[str]) -> PaperNumber:
        """Return the average over `axes` of the numbers for `groups`."""


def read_reference(path: Path, table: Table) -> Reference:
    """Read the file of reference numbers of a table: those of papers, or a report's. Raises
    BenchError where it cannot be read, or is neither.
    """
    if "variant" in header_of(path) or "status" not in header_of(path):
        return PaperTable.read(path)
    return EarlierTable.read(path, (*table.rows, *table.columns))


class EarlierTable:
    """The numbers of one report. `apart`: columns of seeds that must agree."""

    def __init__(self, path: Path, values: Mapping[Name, Sequence[float]], apart: Sequence[str]):
        self.path = path
        self.values = values
        self.apart = apart

    @classmethod
    def read(cls, path: Path, axes: Sequence[str]) -> EarlierTable:
        """Read the CSV of a report for a table with `axes` in its rows and columns, of which those
        of seeds tell replicates apart. Raises BenchError.
        """
        apart: list[str] = []
        for axis in axes:
            apart += SEEDS.get(axis, ())
        values: dict[Name, list[float]] = defaultdict(list)
        for number, fields in lines_of(path, NEEDED):
            if fields["status"] != Outcome.DONE.value:
                continue
            if fields.get("source", "metric") == "metric":
                name = _name({"on": "", "part": "", **fields}, apart)
                values[name].append(_number(fields["value"], path, number))
        return cls(path, values, apart)

    def of(self, rows: Sequence[Row]) -> PaperNumber:
        """Return the mean over the replicates of the cells of `rows`, as a table writes it."""
        values = self._values(rows)
        return PaperNumber(_written(values, rows[0].unit))

    def average(self, groups: Sequence[Sequence[Row]], axes: Sequence[str]) -> PaperNumber:
        """Return the mean of the means of all groups, each counting once; nothing where one has
        none.
        """
        means = []
        for rows in groups:
            values = self._values(rows)
            if not values:
                return PaperNumber()
            means.append(math.fsum(values) / len(values))
        return PaperNumber(_written(means, groups[0][0].unit))

    def _values(self, rows: Sequence[Row]) -> list[float]:
        names: dict[Name, None] = {}
        for row in rows:
            fields = {name: str(getattr(row, name)) for name in (*_LABELS, *self.apart)}
            names[_name(fields, self.apart)] = None
        values: list[float] = []
        for name in names:
            values += self.values.get(name, ())
        return values


_LABELS = (*CELL_KINDS, "on", "metric", "part")


def _name(fields: Mapping[str, str], apart: Sequence[str]) -> Name:
    return tuple(fields[name] for name in (*_LABELS, *apart))


def _number(text: str, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BenchError(f"{path}:{line}: value {text!r} of a row that is done is no number")
    return value


def _written(values: Sequence[float], unit: str) -> str:
    """Return the mean of values as a table writes it, or "" where there are none."""
    if not values:
        return ""
    style = Style.of(unit, values)
    if len(values) == 1:
        return style.write(values)
    return style.write_mean(values)
