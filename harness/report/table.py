"""From rows to a table: groups, averages over named axes, and footnotes for everything that a
number does not say.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from harness.errors import BenchError
from harness.grid import Table
from harness.outcomes import Outcome
from harness.report.axes import Axes, Header, with_parts
from harness.report.reference import Reference
from harness.report.results import Row
from harness.report.style import Style

if TYPE_CHECKING:
    from harness.registry.resolve import Resolver
    from harness.registry.resolved import Resolved

AVERAGE = "average"
WORDS = {Outcome.FAILED: "failed", Outcome.TIMED_OUT: "timed out", Outcome.BLOCKED: "blocked"}
WORDS |= {Outcome.TO_RUN: "…", Outcome.INCOMPATIBLE: "–"}
"""What stands in place of a number, the gravest first."""

SIGNS = {
    "not established": (
        "†",
        "not established: the undefended victim misses the bounds that its attack entry sets",
    ),
    "oracle": ("‡", "oracle: the defense was given the trigger and test data"),
    "static": ("§", "static: the training set was stamped after the attack had trained"),
}

Group = tuple[Header, Header]


@dataclass(frozen=True)
class Shown:
    """One place of a table: `text` with its `signs` (footnotes), and the paper's number, or ""."""

    text: str = ""
    signs: tuple[str, ...] = ()
    reference: str = ""


@dataclass
class Sheet:
    """A table ready to be drawn. `cells` by (row header, column header); headers have a text for
    each axis.
    """

    title: str
    row_axes: tuple[str, ...]
    column_axes: tuple[str, ...]
    rows: list[Header]
    columns: list[Header]
    cells: dict[Group, Shown]
    units: dict[str, str]
    """Units by metric, as headers name it."""
    averaged: bool = False
    """Whether the last row is the average of the others."""
    caption: list[str] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def lay_out(
    table: Table,
    rows: Sequence[Row],
    metrics: Mapping[str, Resolved],
    resolver: Resolver,
    title: str = "",
) -> Sheet:
    """The table over `rows`; `metrics` are the resolved ones by label. Raises BenchError for what
    has no average.
    """
    return _Layout(table, rows, metrics, resolver).sheet(title)


class _Layout:
    def __init__(
        self, table: Table, rows: Sequence[Row], metrics: Mapping[str, Resolved], resolver: Resolver
    ) -> None:
        self.table, self.metrics, self.resolver = table, metrics, resolver
        place = {label: number for number, label in enumerate(table.metrics)}
        mine = [row for row in rows if row.source == "metric" and row.metric in place]
        # Metrics in the table's order; sorting is stable, so cells keep the grid's.
        self.rows = sorted(with_parts(mine), key=lambda row: place[row.metric])
        self.axes = Axes(table, self.rows)
        self.reference = Reference.read(table.reference) if table.reference else None
        self.groups: dict[Group, list[Row]] = defaultdict(list)
        for row in self.rows:
            self.groups[
                self.axes.header(row, table.rows), self.axes.header(row, table.columns)
            ].append(row)
        self.styles = {label: self._style(label) for label in table.metrics}
        self.notes: dict[str, str] = {}
        """Signs of footnotes by their text."""
        self.counts = {len(done) for group in self.groups.values() if (done := _done(group))}

    def sheet(self, title: str) -> Sheet:
        for group in self.groups.values():
            self.axes.check(group)
        rows = self.axes.sorted((row for row, _ in self.groups), self.table.rows)
        columns = self.axes.sorted((column for _, column in self.groups), self.table.columns)
        combined = self._combined({name: _done(group) for name, group in self.groups.items()})
        names = [
            (row, column) for row in rows for column in columns if (row, column) in self.groups
        ]
        cells = {name: self._shown(self.groups[name], combined.get(name)) for name in names}
        if self.table.average and len(rows) > 1:
            cells |= self._average(rows, columns)
            rows = [*rows, _average_header(self.table)]
        return Sheet(
            title,
            self.table.rows,
            self.table.columns,
            rows,
            columns,
            cells,
            {self.axes.value(row, "metric"): row.unit for row in self.rows if row.unit},
            self.table.average and len(rows) > 1,
            self._caption(cells),
            self._footnotes(),
            warnings(self.rows),
        )

    def _style(self, label: str) -> Style:
        rows = [row for row in self.rows if row.metric == label]
        return Style.of(
            rows[0].unit if rows else "", [row.value for row in rows if row.value is not None]
        )

    def _combined(self, groups: Mapping[Group, Sequence[Row]]) -> dict[Group, str]:
        """The text of the groups whose metric combines replicates in its own way: one question for
        all of them.
        """
        own = {name: group for name, group in groups.items() if group and self._combines(group[0])}
        if not own:
            return {}
        asked = [
            (self.metrics[group[0].metric], [row.value or 0.0 for row in group])
            for group in own.values()
        ]
        answers = zip(own.items(), self.resolver.combine_all(asked), strict=True)
        return {
            name: self.styles[group[0].metric].write_combined(told)
            for (name, group), told in answers
        }

    def _combines(self, row: Row) -> bool:
        return row.metric in self.metrics and bool(self.metrics[row.metric].facts.get("combines"))

    def _shown(self, group: Sequence[Row], combined: str | None) -> Shown:
        done = _done(group)
        known = self._paper(group)
        if not done:
            worst = next(
                outcome for outcome in WORDS if any(row.status is outcome for row in group)
            )
            return replace(known, text=WORDS[worst], signs=(*self._failures(group), *known.signs))
        text = combined or self.styles[group[0].metric].write([row.value or 0.0 for row in done])
        if len(self.counts) > 1:
            text += f" (n={len(done)})"
        return replace(
            known, text=text, signs=(*self._marks(group), *self._failures(group), *known.signs)
        )

    def _marks(self, group: Sequence[Row]) -> list[str]:
        return [
            sign for mark, (sign, _) in SIGNS.items() if any(mark in row.marks for row in group)
        ]

    def _failures(self, group: Sequence[Row]) -> list[str]:
        """Footnotes for the replicates without a number. Of what has not run at all the text says
        enough.
        """
        lacking = Counter(
            (row.status, _first(row.reason), row.log)
            for row in group
            if row.status is not Outcome.DONE
        )
        signs = []
        for (status, reason, log), count in lacking.items():
            share = f"{count} of {len(group)} " if count < len(group) else ""
            if status is Outcome.TO_RUN and not share:
                continue
            told = "not run yet" if status is Outcome.TO_RUN else f"{status.value}: {reason}"
            signs.append(self._note(share + told + (f" (log: {log})" if log else "")))
        return list(dict.fromkeys(signs))

    def _paper(self, group: Sequence[Row], averaged: bool = False) -> Shown:
        """The paper's number, or the reason why there is none among several."""
        if self.reference is None:
            return Shown()
        if averaged:
            found = [self.reference.average(group, self.table.rows)]
        else:
            found = list(dict.fromkeys(self.reference.find(row) for row in group))
        if len(found) > 1:
            return Shown(
                signs=(self._note("the paper's numbers differ over what is averaged here"),)
            )
        ((value, reason),) = found
        return Shown(reference=value, signs=(self._note(reason),) if reason else ())

    def _note(self, text: str) -> str:
        return self.notes.setdefault(text, f"[{len(self.notes) + 1}]")

    def _average(self, rows: Sequence[Header], columns: Sequence[Header]) -> dict[Group, Shown]:
        """The last row: the mean of each column's means, each row counting once."""
        if "metric" in self.table.rows and len({row.metric for row in self.rows}) > 1:
            raise BenchError(
                str(
                    self.table.place.problem(
                        "different metrics have no average", 'put "metric" into columns'
                    )
                )
            )
        header = _average_header(self.table)
        stacks = {
            column: [self.groups[row, column] for row in rows if (row, column) in self.groups]
            for column in columns
        }
        combined = self._combined(
            {
                (header, column): [row for group in groups for row in _done(group)]
                for column, groups in stacks.items()
            }
        )
        found = {}
        for column, groups in stacks.items():
            means = [
                sum(row.value or 0.0 for row in done) / len(done)
                for group in groups
                if (done := _done(group))
            ]
            if not means:
                continue
            every = [row for group in groups for row in group]
            text = combined.get((header, column)) or self.styles[every[0].metric].write_mean(means)
            lacking = (
                [self._note(f"over {len(means)} of {len(groups)} rows")]
                if len(means) < len(groups)
                else []
            )
            paper = self._paper(every, averaged=True)
            found[header, column] = replace(
                paper, text=text, signs=(*self._marks(every), *lacking, *paper.signs)
            )
        return found

    def _caption(self, cells: Mapping[Group, Shown]) -> list[str]:
        lines = []
        units = {row.metric: row.unit for row in self.rows if row.unit}
        if "metric" not in _axes(self.table):
            lines += [
                f"{label} in {units[label]}" if label in units else label
                for label in self.table.metrics
            ]
        if max(self.counts, default=1) > 1:
            over = ", ".join(self.table.over)
            spread = (
                "as their metric combines them"
                if all(map(self._combines, self.rows))
                else "mean ± std (n-1)"
            )
            lines.append(
                f"{spread} over {over}"
                + (f", n = {max(self.counts)}" if len(self.counts) == 1 else "")
            )
        texts = {shown.text for shown in cells.values()}
        if WORDS[Outcome.TO_RUN] in texts:
            lines.append(f"{WORDS[Outcome.TO_RUN]} not run yet")
        if self.reference and any(shown.reference for shown in cells.values()):
            lines.append(f"in parentheses: {self.reference.path.name}")
        return lines

    def _footnotes(self) -> list[tuple[str, str]]:
        marks = {mark for row in self.rows for mark in row.marks if row.status is Outcome.DONE}
        return [SIGNS[mark] for mark in SIGNS if mark in marks] + [
            (sign, text) for text, sign in self.notes.items()
        ]


def warnings(rows: Sequence[Row]) -> list[str]:
    """A line where the numbers of one table were not all made with the same torch, device and
    number of threads.
    """
    places = Counter(place for row in rows for place in row.places)
    if len(places) < 2:
        return []
    listed = "; ".join(
        f"{place} ({count} of {len(rows)} values)" for place, count in sorted(places.items())
    )
    return [f"these numbers were made in different environments: {listed}"]


def _axes(table: Table) -> tuple[str, ...]:
    return *table.rows, *table.columns


def _done(group: Sequence[Row]) -> list[Row]:
    """The rows with a number, one for each that was computed.

    Where defense seeds vary and a cell does not depend on them (no defense), several rows are one
    and the same result: counted apart they would make n too large and the standard deviation too
    small.
    """
    found: dict[tuple[Any, ...], Row] = {}
    for number, row in enumerate(row for row in group if row.status is Outcome.DONE):
        found.setdefault((row.stage or number, row.metric, row.part), row)
    return list(found.values())


def _average_header(table: Table) -> Header:
    return AVERAGE, *("" for _ in table.rows[1:])


def _first(text: str) -> str:
    return text.strip().partition("\n")[0]
