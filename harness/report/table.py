"""From rows to a table: groups, averages over named axes, and footnotes for everything that a
number does not say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from harness.errors import BenchError
from harness.grid import Table
from harness.outcomes import Outcome
from harness.report.axes import Axes, Header, with_parts
from harness.report.best import best_of
from harness.report.earlier import read_reference
from harness.report.footnotes import Footnotes, signs_of_marks, warnings
from harness.report.groups import Group
from harness.report.reference import PaperNumber
from harness.report.results import Row
from harness.report.style import Style

if TYPE_CHECKING:
    from harness.components import MetricFacts
    from harness.registry.resolve import Resolver
    from harness.registry.resolved import Resolved

AVERAGE = "average"
WORDS = {
    Outcome.FAILED: "failed",
    Outcome.TIMED_OUT: "timed out",
    Outcome.BLOCKED: "blocked",
    Outcome.PAUSED: "paused",
    Outcome.TO_RUN: "…",
    Outcome.INCOMPATIBLE: "–",
}
"""Words in place of a number, the gravest first."""

Position = tuple[Header, Header]
"""A row header and a column header."""

Numbers = Mapping[str, float]
"""What a metric's own `combine` made of replicates, by name."""


@dataclass(frozen=True)
class TableCell:
    """One place of a table: `text` with its `signs` (footnotes), and the paper's number, or "".

    `best`: no defense has a better number among the places that differ in the defense alone.
    """

    text: str = ""
    signs: tuple[str, ...] = ()
    reference: str = ""
    best: bool = False


@dataclass
class TextTable:
    """A table ready to be drawn. `cells` by (row header, column header); headers have a text for
    each axis.
    """

    title: str
    row_axes: tuple[str, ...]
    column_axes: tuple[str, ...]
    rows: list[Header]
    columns: list[Header]
    cells: dict[Position, TableCell]
    units: dict[str, str]
    """Units by metric, as headers name it."""
    averaged: bool = False
    """True if the last row is the average of the others."""
    caption: list[str] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def cell(self, row: Header, column: Header) -> TableCell:
        """Return the cell at a place, an empty one where the table has none."""
        return self.cells.get((row, column), TableCell())


def lay_out(
    table: Table,
    rows: Sequence[Row],
    metrics: Mapping[str, Resolved[MetricFacts]],
    resolver: Resolver,
    title: str = "",
) -> TextTable:
    """Return the table over `rows`; `metrics` are the resolved ones by label. Raises BenchError for
    what has no average.
    """
    return _Layout(table, rows, metrics, resolver).text_table(title)


class _Layout:
    """The steps from the rows of one table to its text."""

    def __init__(
        self,
        table: Table,
        rows: Sequence[Row],
        metrics: Mapping[str, Resolved[MetricFacts]],
        resolver: Resolver,
    ) -> None:
        self.table = table
        self.metrics = metrics
        self.resolver = resolver
        self.rows = _rows_of(table, rows)
        self.axes = Axes(table, self.rows)
        self.reference = read_reference(table.reference, table) if table.reference else None
        self.footnotes = Footnotes()
        self.groups = self._groups()
        self.replicates: set[int] = set()
        """Numbers of replicates that cells of the table stand for."""
        for group in self.groups.values():
            if group.computed:
                self.replicates.add(len(group.computed))
        self.styles = {label: self._style(label) for label in table.metrics}
        self.combined = self._combined()

    def text_table(self, title: str) -> TextTable:
        """Return the table. Raises BenchError for what has no average."""
        row_headers = []
        column_headers = []
        for (row_header, column_header), group in self.groups.items():
            self.axes.check(group.rows)
            row_headers.append(row_header)
            column_headers.append(column_header)
        rows = self.axes.sorted(row_headers, self.table.rows)
        columns = self.axes.sorted(column_headers, self.table.columns)
        cells = self._cells(rows, columns)
        is_averaged = self.table.average and len(rows) > 1
        if is_averaged:
            averages = self._averages(rows, columns)
            header = (AVERAGE, *[""] * (len(self.table.rows) - 1))
            for column, cell in averages.items():
                cells[header, column] = cell
            rows.append(header)
        for position in best_of(self.table, self.groups, self.metrics, self.styles):
            cells[position] = replace(cells[position], best=True)
        return TextTable(
            title=title,
            row_axes=self.table.rows,
            column_axes=self.table.columns,
            rows=rows,
            columns=columns,
            cells=cells,
            units=self._units(),
            averaged=is_averaged,
            caption=self._caption(cells),
            notes=self.footnotes.listed(self.rows),
            warnings=warnings(self.rows),
        )

    def _groups(self) -> dict[Position, Group]:
        rows_at: dict[Position, list[Row]] = {}
        for row in self.rows:
            row_header = self.axes.header(row, self.table.rows)
            column_header = self.axes.header(row, self.table.columns)
            rows_at.setdefault((row_header, column_header), []).append(row)
        return {position: Group.of(rows) for position, rows in rows_at.items()}

    def _style(self, label: str) -> Style:
        unit = ""
        values = []
        for row in self.rows:
            if row.metric != label:
                continue
            unit = row.unit
            if row.value is not None:
                values.append(row.value)
        return Style.of(unit, values)

    def _units(self) -> dict[str, str]:
        units = {}
        for row in self.rows:
            if row.unit:
                heading = self.axes.value(row, "metric")
                units[heading] = row.unit
        return units

    # --- the cells --------------------------------------------------------------------------------

    def _cells(
        self, rows: Sequence[Header], columns: Sequence[Header]
    ) -> dict[Position, TableCell]:
        """Return the cells in the order of reading, in which footnotes are numbered."""
        cells = {}
        for row in rows:
            for column in columns:
                position = (row, column)
                if position in self.groups:
                    group = self.groups[position]
                    cells[position] = self._cell(group, self.combined.get(position))
        return cells

    def _cell(self, group: Group, combined: Numbers | None) -> TableCell:
        """Return the cell of a group; `combined` is what its metric made of it, if it has its own
        way.
        """
        paper = self._paper_number(group)
        reasons = self._footnotes_of(paper)
        failures = self.footnotes.add_failures(group.rows)
        if not group.computed:
            return TableCell(_word(group), (*failures, *reasons), paper.text)
        style = self.styles[group.metric]
        text = style.write_combined(combined) if combined else style.write(group.values)
        if len(self.replicates) > 1:
            text += f" (n={len(group.computed)})"
        marks = signs_of_marks(group.rows)
        notes = [self.footnotes.add(row.shortfall) for row in group.rows if row.shortfall]
        signs = dict.fromkeys((*marks, *notes, *failures, *reasons))
        return TableCell(text, tuple(signs), paper.text)

    def _combined(self) -> dict[Position, Numbers]:
        """Return the numbers of the groups whose metric combines replicates in its own way: one
        question for all of them.
        """
        positions = []
        questions = []
        for position, group in self.groups.items():
            if group.computed and self._combines(group.metric):
                positions.append(position)
                questions.append((self.metrics[group.metric], group.values))
        if not questions:
            return {}
        answers = self.resolver.combine_all(questions)
        return dict(zip(positions, answers, strict=True))

    def _combines(self, label: str) -> bool:
        return label in self.metrics and self.metrics[label].facts.combines

    def _paper_number(self, group: Group) -> PaperNumber:
        """Return the paper's number for a cell, or the reason why there is none among several."""
        if self.reference is None:
            return PaperNumber()
        return self.reference.of(group.rows)

    def _footnotes_of(self, paper: PaperNumber) -> list[str]:
        return [self.footnotes.add(paper.reason)] if paper.reason else []

    # --- the average row --------------------------------------------------------------------------

    def _averages(
        self, rows: Sequence[Header], columns: Sequence[Header]
    ) -> dict[Header, TableCell]:
        """Return the last row by column: the mean of the column's means, each row counting once."""
        metrics = {row.metric for row in self.rows}
        if "metric" in self.table.rows and len(metrics) > 1:
            problem = self.table.place.problem(
                "different metrics have no average", 'put "metric" into columns'
            )
            raise BenchError(str(problem))
        cells = {}
        for column in columns:
            stack = [(row, column) for row in rows if (row, column) in self.groups]
            if any(self.groups[position].computed for position in stack):
                cells[column] = self._average(stack)
        return cells

    def _average(self, stack: Sequence[Position]) -> TableCell:
        """Return the mean of what the rows show, however many replicates each stands for."""
        whole = Group.together(self.groups[position] for position in stack)
        combined = []
        means = []
        for position in stack:
            group = self.groups[position]
            if group.computed:
                means.append(sum(group.values) / len(group.computed))
                if position in self.combined:
                    combined.append(self.combined[position])
        style = self.styles[whole.metric]
        text = style.write_combined(_mean_of(combined)) if combined else style.write_mean(means)
        signs = signs_of_marks(whole.rows)
        if len(means) < len(stack):
            signs.append(self.footnotes.add(f"over {len(means)} of {len(stack)} rows"))
        paper = PaperNumber()
        if self.reference is not None:
            groups = [self.groups[position].rows for position in stack]
            paper = self.reference.average(groups, self.table.rows)
        signs += self._footnotes_of(paper)
        return TableCell(text, tuple(signs), paper.text)

    # --- the caption ------------------------------------------------------------------------------

    def _caption(self, cells: Mapping[Position, TableCell]) -> list[str]:
        lines = []
        if "metric" not in self.table.rows and "metric" not in self.table.columns:
            lines += self._metrics_with_units()
        if max(self.replicates, default=1) > 1:
            lines.append(self._spread())
        word = WORDS[Outcome.TO_RUN]
        if any(cell.text == word for cell in cells.values()):
            lines.append(f"{word} not run yet")
        if self.reference and any(cell.reference for cell in cells.values()):
            lines.append(f"in parentheses: {self.reference.path.name}")
        return lines

    def _metrics_with_units(self) -> list[str]:
        units = {row.metric: row.unit for row in self.rows if row.unit}
        lines = []
        for label in self.table.metrics:
            line = f"{label} in {units[label]}" if label in units else label
            lines.append(line)
        return lines

    def _spread(self) -> str:
        """Return a line that says how replicates were combined, over which axes, and their
        number.
        """
        spread = "mean ± std (n-1)"
        if all(self._combines(row.metric) for row in self.rows):
            spread = "as their metric combines them"
        line = f"{spread} over {', '.join(self.table.over)}"
        if len(self.replicates) == 1:
            line += f", n = {max(self.replicates)}"
        return line


def _mean_of(combined: Sequence[Numbers]) -> Numbers:
    """Return the mean of each number that all have by name; spreads and counts have none."""
    first, *others = combined
    means = {}
    for name in first:
        if name not in ("std", "n") and all(name in numbers for numbers in others):
            means[name] = sum(numbers[name] for numbers in combined) / len(combined)
    return means


def _rows_of(table: Table, rows: Sequence[Row]) -> list[Row]:
    """Return the rows of a table's metrics, metric by metric; those of one metric keep the grid's
    order.
    """
    places = {label: number for number, label in enumerate(table.metrics)}
    chosen = [row for row in rows if row.source == "metric" and row.metric in places]
    return sorted(with_parts(chosen), key=lambda row: places[row.metric])


def _word(group: Group) -> str:
    """Return the word for a group that has no number: that of its gravest outcome."""
    gravity = list(WORDS)
    gravest = min((row.status for row in group.rows), key=gravity.index)
    return WORDS[gravest]
