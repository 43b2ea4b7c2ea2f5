"""From a path to a `Grid`, or to all that is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.errors import GridError
from harness.grid import checks
from harness.grid.blocks import read_cells
from harness.grid.checks import Report
from harness.grid.entries import read_entries
from harness.grid.files import load
from harness.grid.model import Cell, Entry, Grid
from harness.grid.tables import read_tables


def read(path: Path) -> Grid:
    """The grid that the file at `path` describes.

    Raises `GridError` with every problem of the file and of those that it extends. Parameters, presets and recipes are
    not checked here but where their components are known; `Entry.at` and `Grid.place` say where they stand.
    """
    report = Report()
    root = load(Path(path), report)
    if root is None:
        raise GridError(report.sorted())
    title = checks.string(report, root.table.get("title"), 'write title = "..."') or Path(path).stem
    entries = read_entries(root, report)
    cells = read_cells(root, entries, report)
    grid = Grid(
        path=Path(path),
        title=title,
        cells=tuple(cells),
        entries=_used(cells, entries["metric"]),
        metrics=tuple(entries["metric"]),
        defender=checks.grant(report, root.table.get("defender")),
        training=checks.training(report, root.table.get("training")),
        training_place=root.at("training"),
        tables=tuple(read_tables(root, cells, entries["metric"], report)),
        root=root,
    )
    if len(report):
        raise GridError(report.sorted())
    return grid


def _used(cells: Sequence[Cell], metrics: Sequence[Entry]) -> tuple[Entry, ...]:
    """Every entry that a cell needs, each once, by kind."""
    axes = [[cell.dataset for cell in cells], [cell.model for cell in cells], [cell.attack for cell in cells]]
    defenses = [defense for cell in cells for defense in cell.chain]
    return tuple(dict.fromkeys(entry for axis in (*axes, defenses, metrics) for entry in axis))
