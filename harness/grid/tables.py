"""The `[[table]]` entries: axes, and the rule that a table averages only over what it names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.errors import suggest
from harness.grid import checks
from harness.grid.checks import Report
from harness.grid.model import CELL_KINDS, KINDS, RESERVED, Cell, Entry, Table, text
from harness.grid.nodes import Node, Place, shown

_KEYS = ("title", "rows", "columns", "over", "average", "reference", "metrics")
_SEEDS = ("seed", "victim-seed", "defense-seed")
_LISTS = ("rows", "columns", "over")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
"""Where the grids of the box lie, and their reference values."""


def read_tables(
    root: Node, cells: Sequence[Cell], metrics: Sequence[Entry], report: Report
) -> list[Table]:
    """The tables of a grid; one with a row for each attack and a column for each defense where it
    names none.
    """
    nodes = root.table["table"].items if "table" in root.table else []
    if not nodes:
        return [_default(cells, metrics, root.place)]
    reader = _Reader(report, cells, metrics, _parameters(root, cells, metrics))
    return [reader.table(node) for node in nodes]


def _default(cells: Sequence[Cell], metrics: Sequence[Entry], place: Place) -> Table:
    several = [kind for kind in ("dataset", "model") if len(_labels(cells, kind)) > 1]
    over = ("seed",) if any(_seeds(cells).values()) else ()
    labels = tuple(metric.label for metric in metrics)
    return Table(
        None, (*several, "attack"), ("defense", "metric"), over, False, None, labels, place
    )


class _Reader:
    def __init__(
        self, report: Report, cells: Sequence[Cell], metrics: Sequence[Entry], parameters: list[str]
    ) -> None:
        self.report, self.cells, self.metrics, self.parameters = report, cells, metrics, parameters

    def table(self, node: Node) -> Table:
        known = checks.table(self.report, node, _KEYS)
        rows, columns, over = (self._axes(node, known.get(key), key) for key in _LISTS)
        self._named_twice(known)
        metrics = self._metrics(known.get("metrics"))
        self._averages(node, {*rows, *columns, *over}, metrics)
        return Table(
            title=checks.string(self.report, known.get("title"), 'write title = "Table 1"'),
            rows=rows,
            columns=columns,
            over=over,
            average=checks.boolean(self.report, known.get("average")),
            reference=self._reference(known.get("reference")),
            metrics=tuple(metric.label for metric in metrics),
            place=node.place,
        )

    def _axes(self, table: Node, node: Node | None, key: str) -> tuple[str, ...]:
        example = {"rows": '["attack"]', "columns": '["defense", "metric"]', "over": '["seed"]'}[
            key
        ]
        if node is None:
            if key != "over":
                self.report.add(table.place, f"{key} is missing", f"write {key} = {example}")
            return ()
        if key == "over" and node.value == []:
            return ()
        items = checks.strings(self.report, node, "one axis", f"write {key} = {example}")
        return tuple(item.value for item in items if self._is_axis(item, key))

    def _is_axis(self, node: Node, key: str) -> bool:
        axes = [*KINDS, *_SEEDS, *self.parameters]
        kind, _, parameter = node.value.partition(".")
        if node.value not in axes:
            what = f"unknown axis {shown(node.value)}"
            if parameter and kind in KINDS:
                what = f"no [[{kind}]] of the grid sets or sweeps {shown(parameter)}"
            self.report.missing(node.place, what, suggest(node.value, axes))
            return False
        if key == "over" and kind == "metric":
            self.report.add(
                node.place, "different metrics have no average", 'put "metric" into rows or columns'
            )
            return False
        return True

    def _named_twice(self, known: Mapping[str, Node]) -> None:
        """One axis has one role. `seed` is both other seed axes, so it stands alone."""
        seen: dict[str, tuple[str, Node]] = {}
        for key in _LISTS:
            for item in (
                (item for item in known[key].items if isinstance(item.value, str))
                if key in known
                else ()
            ):
                axes = _SEEDS[1:] if item.value == "seed" else (item.value,)
                role, other = next((seen[axis] for axis in axes if axis in seen), (key, item))
                reported = item.value == other.value and (
                    role == key or (key == "over" and item.value == "metric")
                )
                if not reported:
                    self._twice(item, other)
                seen.update({axis: (key, item) for axis in axes if axis not in seen})

    def _twice(self, item: Node, other: Node) -> None:
        what = f"{shown(item.value)} is in {other.place.key} already"
        hint = "keep one of them"
        if item.value != other.value:
            what = f"{shown(item.value)} overlaps {shown(other.value)} in {other.place.key}"
            hint = '"seed" means "victim-seed" and "defense-seed" together: keep it, or name the other two'
        self.report.add(item.place, what, hint)

    def _metrics(self, node: Node | None) -> list[Entry]:
        if node is None:
            return list(self.metrics)
        hint = "list labels of [[metric]] entries, or leave metrics out"
        names = checks.strings(self.report, node, "one metric", hint)
        known = [name for metric in self.metrics for name in (metric.base, metric.label)]
        wanted = [name.value for name in names if checks.label(self.report, name, known, "metric")]
        chosen = [
            metric
            for name in wanted
            for metric in self.metrics
            if name in (metric.base, metric.label)
        ]
        return list(dict.fromkeys(chosen))

    def _averages(self, node: Node, named: set[str], metrics: Sequence[Entry]) -> None:
        for axis, values in _unnamed(named, self.cells, metrics).items():
            listed = ", ".join(values[:8]) + (", ..." if len(values) > 8 else "")
            roles = "rows or columns" if axis.startswith("metric") else "rows, columns or over"
            hint = f'add "{axis}" to {roles}; its values in this grid: {listed}'
            self.report.add(node.place, f"averages over {axis}, which it does not name", hint)

    def _reference(self, node: Node | None) -> Path | None:
        written = checks.string(self.report, node, 'write reference = "reference/bcu-1.csv"')
        if node is None or written is None:
            return None
        beside = node.place.file.parent / written
        for path in (beside, BENCHMARKS / written):
            if path.is_file():
                return path
        what = (
            f"{shown(written)} is a directory"
            if beside.is_dir()
            else f"there is no file {shown(written)}"
        )
        folder = beside if beside.is_dir() else beside.parent
        names = sorted(file.name for file in folder.glob("*.csv")) if folder.is_dir() else []
        hint = (
            suggest(beside.name, names)
            if names
            else "name a CSV file by its path from this grid file"
        )
        self.report.add(
            node.place, what, f"{hint} (looked for {beside} and {BENCHMARKS / written})"
        )
        return None


def _unnamed(
    named: set[str], cells: Sequence[Cell], metrics: Sequence[Entry]
) -> dict[str, list[str]]:
    """The axes, with their values, that have several values but no name in a table."""
    found: dict[str, list[str]] = {}
    for kind in KINDS:
        if kind in named:
            continue
        entries = list(metrics) if kind == "metric" else [getattr(cell, kind) for cell in cells]
        bases = _distinct(entry.base for entry in entries)
        if len(bases) > 1:
            found[kind] = bases
            continue
        for parameter in _distinct(key for entry in entries for key in entry.swept):
            values = _distinct(
                text(e.swept[parameter]) if parameter in e.swept else "unset" for e in entries
            )
            if len(values) > 1 and f"{kind}.{parameter}" not in named:
                found[f"{kind}.{parameter}"] = values
    missing = {
        axis: seeds for axis, seeds in _seeds(cells).items() if seeds and not named & {axis, "seed"}
    }
    if len(missing) == 2:
        return found | {
            "seed": _distinct(f"{cell.victim_seed}.{cell.defense_seed}" for cell in cells)
        }
    return found | missing


def _seeds(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """The values of each seed axis, none where there is only one."""
    axes = {
        "victim-seed": _distinct(str(cell.victim_seed) for cell in cells),
        "defense-seed": _distinct(str(cell.defense_seed) for cell in cells),
    }
    return {axis: seeds if len(seeds) > 1 else [] for axis, seeds in axes.items()}


def _labels(cells: Sequence[Cell], kind: str) -> list[str]:
    return _distinct(getattr(cell, kind).label for cell in cells)


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _parameters(root: Node, cells: Sequence[Cell], metrics: Sequence[Entry]) -> list[str]:
    """`<kind>.<parameter>` for all parameters that the grid sets or sweeps anywhere.

    Those only set count too: a small version of a grid may set what its parent sweeps and keep the
    parent's tables.
    """
    found = [
        f"{entry.kind}.{key}" for cell in cells for entry in cell.entries for key in entry.swept
    ]
    found += [f"metric.{key}" for metric in metrics for key in metric.swept]
    blocks = root.table["block"].items if "block" in root.table else []
    for kind in KINDS:
        for entry in root.table[kind].items if kind in root.table else []:
            found += [
                f"{kind}.{key}"
                for key in (*entry.table, *_under(entry, "sweep"))
                if key not in RESERVED
            ]
        if kind in CELL_KINDS:
            ways = [(block, way) for block in blocks for way in ("set", "sweep")]
            found += [f"{kind}.{key}" for block, way in ways for key in _under(block, way, kind)]
    return _distinct(found)


def _under(node: Node, *keys: str) -> dict[str, Node]:
    for key in keys:
        node = node.table.get(key, Node(node.place, {}))
    return node.table
