"""`grid.toml` -> validated `Grid` -> cells. Structure only: no component is looked up, imported or
resolved here.

`read` collects every problem of a file and raises them together, each with file, line, key and what
would be right.
"""

from __future__ import annotations

from harness.grid.model import Cell, Entry, Grid, Seeds, Table
from harness.grid.nodes import Place
from harness.grid.reading import described, read
from harness.grid.selection import nothing, quote, select

__all__ = [
    "Cell",
    "Entry",
    "Grid",
    "Place",
    "Seeds",
    "Table",
    "described",
    "nothing",
    "quote",
    "read",
    "select",
]
