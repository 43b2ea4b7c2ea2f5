"""Tables from rows: laid out, averaged over named axes only, the paper's numbers beside ours, in
several formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.plan.plan import Plan
    from harness.registry.resolve import Resolver
    from harness.report.results import Row
    from harness.report.table import TextTable

# Modules that draw tables are imported inside the functions: whoever only reads rows, from
# `harness.report.results`, need not wait for them.

TABLES = ("terminal", "markdown", "latex")
"""Formats of tables."""
LONG = ("csv", "json")
"""Formats with a line for each row."""
RANKING = ("markdown", "latex")
"""Formats of tables that can show which numbers are the best."""


def tables(plan: Plan, rows: Sequence[Row], resolver: Resolver) -> list[TextTable]:
    """Return the grid's tables over the rows that `harness.report.results.rows` gave. Raises
    BenchError for one that cannot be.
    """
    from harness.report.table import lay_out

    metrics = {}
    for cell in plan.cells:
        for want in cell.wants:
            metrics[want.label] = want.metric
    laid_out = []
    for number, table in enumerate(plan.grid.tables):
        title = table.title or ""
        if number == 0 and not title:
            title = plan.grid.title
        laid_out.append(lay_out(table, rows, metrics, resolver, title))
    return laid_out


def drawn(
    tables: Sequence[TextTable], form: str = "terminal", width: int = 100, *, best: bool = False
) -> str:
    """Return tables in one of the formats `TABLES`, ending in a newline. `width`: the characters of
    a line in a terminal; `best`: the best numbers are bold, in the formats `RANKING`.
    """
    from harness.report import latex, markdown, terminal

    parts = []
    for table in tables:
        if form == "latex":
            parts.append(latex.render(table, best))
        elif form == "markdown":
            parts.append(markdown.render(table, best))
        else:
            parts.append(terminal.render(table, width))
    return "\n".join(parts)
