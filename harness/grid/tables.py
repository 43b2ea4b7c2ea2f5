"""The `[[table]]` entries: axes, and the rule that a table averages only over what it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import suggest
from harness.grid import axes, checks
from harness.grid.axes import SEED_AXES
from harness.grid.checks import Report
from harness.grid.model import Cell, Entry, Table, labels_of
from harness.grid.nodes import Node, Place, shown
from harness.vocabulary import ENTRY_KINDS

_KEYS = ("title", "rows", "columns", "over", "average", "reference", "metrics")

_AXIS_LISTS = {"rows": '["attack"]', "columns": '["defense", "metric"]', "over": '["seed"]'}
"""The keys that list axes, each with an example."""

_LISTED = 8
"""The most values that a hint lists."""

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
"""The folder of the grids in the box, and of their reference values."""


def read_tables(
    root: Node, cells: Sequence[Cell], metrics: Sequence[Entry], report: Report
) -> list[Table]:
    """Return the tables of a grid; one with a row for each attack and a column for each defense
    where it names none.
    """
    nodes = root.items_of("table")
    if not nodes:
        return [_default(cells, metrics, root.place)]
    parameters = axes.parameters(root, cells, metrics)
    reader = _TableReader(report, cells, metrics, parameters)
    return [reader.table(node) for node in nodes]


def _default(cells: Sequence[Cell], metrics: Sequence[Entry], place: Place) -> Table:
    rows = []
    for kind in ("dataset", "model"):
        labels = {entry.label for entry in axes.entries_of(cells, kind)}
        if len(labels) > 1:
            rows.append(kind)
    rows.append("attack")
    over: tuple[str, ...] = ()
    if axes.seed_values(cells):
        over = ("seed",)
    return Table(
        title=None,
        rows=tuple(rows),
        columns=("defense", "metric"),
        over=over,
        average=False,
        reference=None,
        metrics=tuple(metric.label for metric in metrics),
        place=place,
    )


class _TableReader:
    """Reads the `[[table]]` entries of one grid, whose cells and metrics are known."""

    def __init__(
        self, report: Report, cells: Sequence[Cell], metrics: Sequence[Entry], parameters: list[str]
    ) -> None:
        self.report = report
        self.cells = cells
        self.metrics = metrics
        self.axes = [*ENTRY_KINDS, *SEED_AXES, *parameters]

    def table(self, node: Node) -> Table:
        """Read one table."""
        known = checks.table(self.report, node, _KEYS)
        rows = self._axes(node, known, "rows")
        columns = self._axes(node, known, "columns")
        over = self._axes(node, known, "over")
        self._check_roles(known)
        metrics = self._metrics(known.get("metrics"))
        self._check_averages(node, {*rows, *columns, *over}, metrics)
        title = checks.string(self.report, known.get("title"), 'write title = "Table 1"')
        average = checks.boolean(self.report, known.get("average"))
        reference = self._reference(known.get("reference"))
        labels = [metric.label for metric in metrics]
        return Table(title, rows, columns, over, average, reference, tuple(labels), node.place)

    # --- axes ---

    def _axes(self, table: Node, known: Mapping[str, Node], key: str) -> tuple[str, ...]:
        """Return the axes that `key` lists; only `over` may be missing or empty."""
        hint = f"write {key} = {_AXIS_LISTS[key]}"
        if key not in known:
            if key != "over":
                self.report.add(table.place, f"{key} is missing", hint)
            return ()
        node = known[key]
        if key == "over" and node.value == []:
            return ()
        listed = []
        for item in checks.strings(self.report, node, "one axis", hint):
            if self._is_axis(item, key):
                listed.append(item.value)
        return tuple(listed)

    def _is_axis(self, item: Node, key: str) -> bool:
        axis = item.value
        kind, _, parameter = axis.partition(".")
        if axis not in self.axes:
            complaint = f"unknown axis {shown(axis)}"
            if parameter and kind in ENTRY_KINDS:
                complaint = f"no [[{kind}]] of the grid sets or sweeps {shown(parameter)}"
            self.report.missing(item.place, complaint, suggest(axis, self.axes))
            return False
        if key == "over" and kind == "metric":
            complaint = "different metrics have no average"
            self.report.add(item.place, complaint, 'put "metric" into rows or columns')
            return False
        return True

    def _check_roles(self, known: Mapping[str, Node]) -> None:
        """Check that each axis has one role."""
        first: dict[str, tuple[str, Node]] = {}
        for key in _AXIS_LISTS:
            if key not in known:
                continue
            for item in known[key].items:
                if isinstance(item.value, str):
                    self._check_role(key, item, first)

    def _check_role(self, key: str, item: Node, first: dict[str, tuple[str, Node]]) -> None:
        """Compare one item of the list `key` with what `first` has: each axis so far, with the list
        and the item that named it first.
        """
        names = [item.value]
        if item.value == "seed":
            # It is both other seed axes, so it stands alone.
            names = ["victim-seed", "defense-seed"]
        for name in names:
            if name in first:
                other_key, other = first[name]
                if not _is_reported(key, item, other_key, other):
                    self._report_repeated(item, other)
                break
        for name in names:
            first.setdefault(name, (key, item))

    def _report_repeated(self, item: Node, other: Node) -> None:
        if item.value == other.value:
            complaint = f"{shown(item.value)} is in {other.place.key} already"
            hint = "keep one of them"
        else:
            complaint = f"{shown(item.value)} overlaps {shown(other.value)} in {other.place.key}"
            hint = (
                '"seed" means "victim-seed" and "defense-seed" together: '
                "keep it, or name the other two"
            )
        self.report.add(item.place, complaint, hint)

    def _check_averages(self, node: Node, named: set[str], metrics: Sequence[Entry]) -> None:
        """Check that the table names every axis along which its cells differ."""
        for axis, values in axes.unnamed(named, self.cells, metrics).items():
            listed = ", ".join(values[:_LISTED])
            if len(values) > _LISTED:
                listed += ", ..."
            roles = "rows, columns or over"
            if axis.startswith("metric"):
                roles = "rows or columns"
            hint = f'add "{axis}" to {roles}; its values in this grid: {listed}'
            self.report.add(node.place, f"averages over {axis}, which it does not name", hint)

    # --- metrics and reference ---

    def _metrics(self, node: Node | None) -> list[Entry]:
        """Return the metrics that a table shows; all where it lists none."""
        if node is None:
            return list(self.metrics)
        hint = "list labels of [[metric]] entries, or leave metrics out"
        known = dict.fromkeys(labels_of(self.metrics))
        chosen: dict[Entry, None] = {}
        for item in checks.strings(self.report, node, "one metric", hint):
            if not checks.label(self.report, item, known, "metric"):
                continue
            for metric in self.metrics:
                if metric.is_labelled(item.value):
                    chosen[metric] = None
        return list(chosen)

    def _reference(self, node: Node | None) -> Path | None:
        """Return the file of reference values: beside the grid file, or one of the box."""
        written = checks.string(self.report, node, 'write reference = "reference/bcu-1.csv"')
        if node is None or written is None:
            return None
        beside = node.place.file.parent / written
        in_box = BENCHMARKS / written
        for path in (beside, in_box):
            if path.is_file():
                return path
        if beside.is_dir():
            complaint = f"{shown(written)} is a directory"
            names = _csv_files(beside)
        else:
            complaint = f"there is no file {shown(written)}"
            names = _csv_files(beside.parent)
        hint = "name a CSV file by its path from this grid file"
        if names:
            hint = suggest(beside.name, names)
        self.report.add(node.place, complaint, f"{hint} (looked for {beside} and {in_box})")
        return None


def _is_reported(key: str, item: Node, other_key: str, other: Node) -> bool:
    """Return True if another check reported already that `item` repeats `other`."""
    if item.value != other.value:
        return False
    if key == other_key:
        return True  # equal items of one list
    return key == "over" and item.value == "metric"


def _csv_files(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(file.name for file in folder.glob("*.csv"))
