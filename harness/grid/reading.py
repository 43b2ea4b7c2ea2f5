"""From a path, or a table, to a `Grid`, or to all that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import GridError
from harness.grid import checks
from harness.grid.blocks import read_cells
from harness.grid.checks import Report
from harness.grid.entries import read_entries
from harness.grid.files import load
from harness.grid.model import Cell, Entry, Grid
from harness.grid.nodes import Node, build
from harness.grid.tables import read_tables
from harness.grid.toml_lines import Lines


def read(path: Path) -> Grid:
    """The grid that the file at `path` describes.

    Raises `GridError` with every problem of the file and of those that it extends. Parameters,
    presets and recipes are not checked here but where their components are known; `Entry.at` and
    `Grid.place` say where they stand.
    """
    report = Report()
    root = load(Path(path), report)
    if root is None:
        raise GridError(report.sorted())
    return _grid(Path(path), root, report)


def described(table: Mapping[str, Any], origin: str) -> Grid:
    """The grid that a table with the keys of a grid file describes; problems name `origin` in place
    of a file.

    Raises as `read`. Relative files are looked up in the current folder.
    """
    return _grid(Path(origin), build(table, Path(origin), Lines({})), Report())


def _grid(path: Path, root: Node, report: Report) -> Grid:
    title = checks.string(report, root.table.get("title"), 'write title = "..."') or path.stem
    entries = read_entries(root, report)
    cells = read_cells(root, entries, report)
    grid = Grid(
        path=path,
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
    axes = [
        [cell.dataset for cell in cells],
        [cell.model for cell in cells],
        [cell.attack for cell in cells],
    ]
    defenses = [defense for cell in cells for defense in cell.chain]
    return tuple(dict.fromkeys(entry for axis in (*axes, defenses, metrics) for entry in axis))
