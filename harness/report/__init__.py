"""Tables from rows: laid out, averaged over named axes only, the paper's numbers beside ours, in
three formats.
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

FORMATS = ("terminal", "markdown", "csv")


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


def text(
    plan: Plan, rows: Sequence[Row], resolver: Resolver, form: str = "terminal", width: int = 100
) -> str:
    """Return all tables of a grid in one of `FORMATS`, ending in a newline; `csv` is the long rows.
    Raises BenchError.
    """
    from harness.report import long, markdown, terminal

    if form == "csv":
        return long.render(rows)
    parts = []
    for table in tables(plan, rows, resolver):
        if form == "markdown":
            parts.append(markdown.render(table))
        else:
            parts.append(terminal.render(table, width))
    return "\n".join(parts)
