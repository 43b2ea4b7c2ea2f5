"""`grid.toml` -> validated `Grid` -> cells. Structure only: no component is looked up, imported or
resolved here.

`read` collects every problem of a file and raises them together, each with file, line, key and what
would be right.
"""

from __future__ import annotations

from harness.grid.model import Cell, Entry, Grid, Seeds, Table
from harness.grid.nodes import Place
from harness.grid.reading import Unsound, from_table, read
from harness.grid.selection import nothing_selected, quote, select

__all__ = [
    "Cell",
    "Entry",
    "Grid",
    "Place",
    "Seeds",
    "Table",
    "Unsound",
    "from_table",
    "nothing_selected",
    "quote",
    "read",
    "select",
]
