"""What stages cost, as tables in the three formats."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from harness.report.stage_costs import COLUMNS, Cost, by_kind

SHOWN = 20
"""Single stages that are listed, the costliest; CSV has all."""

_NUMBERS: tuple[tuple[str, Callable[[Cost], str]], ...] = (
    ("seconds", lambda cost: f"{cost.seconds:.1f}"),
    ("CPU seconds", lambda cost: f"{cost.cpu_seconds:.1f}"),
    ("images", lambda cost: _or_dash(cost.images, 1)),
    ("images/s", lambda cost: _or_dash(cost.rate, 1)),
    ("memory [MB]", lambda cost: _or_dash(cost.memory, 1e6)),
)
_ON_GPU: tuple[tuple[str, Callable[[Cost], str]], ...] = (
    ("GPU memory [MB]", lambda cost: _or_dash(cost.device_memory, 1e6)),
)


def text(costs: Sequence[Cost], form: str = "terminal") -> str:
    """Sums by kind of stage and the costliest stages; as `csv` one line a stage. Ends in a newline."""
    if form == "csv":
        return _lines(costs)
    if not costs:
        return "(nothing to show: no stage of this grid is in the store)\n"
    from tabulate import tabulate

    style = "pipe" if form == "markdown" else "simple"
    numbers = _NUMBERS + (_ON_GPU if any(cost.device_memory is not None for cost in costs) else ())
    costliest = sorted(costs, key=lambda cost: -cost.seconds)[:SHOWN]
    kinds = by_kind(costs)
    head, sides = (
        ["kind", "stages", *(name for name, _ in numbers)],
        ["left", *["right"] * (1 + len(numbers))],
    )
    body = [[cost.kind, str(cost.stages), *(tell(cost) for _, tell in numbers)] for cost in kinds]
    parts = [tabulate(body, head, style, disable_numparse=True, colalign=sides)]
    if len(costs) > 1:
        head, sides = (
            [*(name for name, _ in numbers), "costliest stages"],
            [*["right"] * len(numbers), "left"],
        )
        body = [[*(tell(cost) for _, tell in numbers), cost.title] for cost in costliest]
        parts.append(tabulate(body, head, style, disable_numparse=True, colalign=sides))
    return "\n\n".join(parts) + "\n"


def _or_dash(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{value / unit:,.0f}"


def _lines(costs: Sequence[Cost]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(cost, name) for name in COLUMNS] for cost in costs)
    return stream.getvalue()
