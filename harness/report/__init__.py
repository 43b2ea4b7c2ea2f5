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
    from harness.report.table import Sheet

FORMATS = ("terminal", "markdown", "csv")


def sheets(plan: Plan, rows: Sequence[Row], resolver: Resolver) -> list[Sheet]:
    """The grid's tables over the rows that `harness.report.results.rows` gave. Raises BenchError
    for one that cannot be.
    """
    from harness.report.table import lay_out

    metrics = {want.label: want.metric for cell in plan.cells for want in cell.wants}
    return [
        lay_out(
            table, rows, metrics, resolver, table.title or (plan.grid.title if number == 0 else "")
        )
        for number, table in enumerate(plan.grid.tables)
    ]


def text(
    plan: Plan, rows: Sequence[Row], resolver: Resolver, form: str = "terminal", width: int = 100
) -> str:
    """All tables of a grid in one of `FORMATS`, ending in a newline; `csv` is the long rows. Raises
    BenchError.
    """
    from harness.report import long, markdown, terminal

    if form == "csv":
        return long.render(rows)
    drawn = sheets(plan, rows, resolver)
    parts = [
        markdown.render(sheet) if form == "markdown" else terminal.render(sheet, width)
        for sheet in drawn
    ]
    return "\n".join(parts)
