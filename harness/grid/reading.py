"""From a path, or a table, to a `Grid`, or to all that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import GridError, Problem
from harness.grid import axes, checks, fields
from harness.grid.blocks import read_cells
from harness.grid.checks import Report
from harness.grid.entries import read_entries
from harness.grid.files import load
from harness.grid.model import Cell, Entry, Grid
from harness.grid.nodes import Node, build
from harness.grid.tables import read_tables
from harness.grid.toml_lines import Lines


class Unsound(GridError):
    """A grid with problems, and what could be read of it: None where parts of it are missing."""

    def __init__(self, problems: Sequence[Problem], found: Grid | None) -> None:
        super().__init__(problems)
        self.found = found


def read(path: Path) -> Grid:
    """Return the grid that the file at `path` describes.

    Raises `GridError` with every problem of the file and of those that it extends. Parameters,
    presets and recipes are not checked here but where their components are known; `Entry.at` and
    `Grid.place` say where they stand.
    """
    report = Report()
    root = load(Path(path), report)
    if root is None:
        raise GridError(report.sorted())
    return _grid(Path(path), root, report)


def from_table(table: Mapping[str, Any], origin: str) -> Grid:
    """Return the grid that a table with the keys of a grid file describes; problems name `origin`
    in place of a file.

    Raises as `read`. Relative files are looked up in the current folder.
    """
    path = Path(origin)
    report = Report()
    root = checks.within(report, build(table, path, Lines({})))
    return _grid(path, root, report)


def _grid(path: Path, root: Node, report: Report) -> Grid:
    title = checks.string(report, root.table.get("title"), 'write title = "..."')
    entries = read_entries(root, report)
    metrics = entries["metric"]
    cells = read_cells(root, entries, report)
    defender = fields.grant(report, root.table.get("defender"))
    training = fields.training(report, root.table.get("training"))
    tables = read_tables(root, cells, metrics, report)
    found = Grid(
        path=path,
        title=title or path.stem,
        cells=tuple(cells),
        entries=_used(cells, metrics),
        metrics=tuple(metrics),
        datasets=tuple(entries["dataset"]),
        defender=defender,
        training=training,
        tables=tuple(tables),
        root=root,
    )
    if len(report):
        raise Unsound(report.sorted(), None if report.partial else found)
    return found


def _used(cells: Sequence[Cell], metrics: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return every entry that a cell needs, each once, by kind."""
    used: dict[Entry, None] = {}
    for kind in ("dataset", "model", "attack"):
        used.update(dict.fromkeys(axes.entries_of(cells, kind)))
    for cell in cells:
        used.update(dict.fromkeys(cell.chain))
    used.update(dict.fromkeys(metrics))
    return tuple(used)
