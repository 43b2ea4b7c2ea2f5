"""The best numbers of a table: what one defense reaches, compared with others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from harness.grid import Table
from harness.report.axes import Header
from harness.report.footnotes import UNRANKED
from harness.report.groups import Group
from harness.report.style import Style

if TYPE_CHECKING:
    from harness.components import MetricFacts
    from harness.registry.resolved import Resolved

Position = tuple[Header, Header]
"""A row header and a column header."""


def best_of(
    table: Table,
    groups: Mapping[Position, Group],
    metrics: Mapping[str, Resolved[MetricFacts]],
    styles: Mapping[str, Style],
) -> list[Position]:
    """Return the places with the best means, as the table writes them, among those that differ in
    the defense alone.

    Left out are undefended models, numbers that may not be ranked, metrics of which neither more
    nor less is better, and what there is nothing to compare with.
    """
    compared: dict[Position, list[Position]] = defaultdict(list)
    for position, group in groups.items():
        if group.computed and _is_ranked(group, metrics):
            compared[_without_defense(table, position)].append(position)
    best = []
    for positions in compared.values():
        if len(positions) < 2:
            continue
        metric = groups[positions[0]].metric
        decimals = styles[metric].mean
        means = [round(fmean(groups[position].values), decimals) for position in positions]
        wanted = max(means) if metrics[metric].facts.higher_is_better else min(means)
        for position, mean in zip(positions, means, strict=True):
            if mean == wanted:
                best.append(position)
    return best


def _is_ranked(group: Group, metrics: Mapping[str, Resolved[MetricFacts]]) -> bool:
    if group.metric not in metrics or metrics[group.metric].facts.higher_is_better is None:
        return False
    for row in group.computed:
        if not row.defended or not UNRANKED.isdisjoint(row.marks):
            return False
    return True


def _without_defense(table: Table, position: Position) -> Position:
    """Return a place without what it says of the defense."""
    row, column = position
    return _others(table.rows, row), _others(table.columns, column)


def _others(axes: Sequence[str], header: Header) -> Header:
    kept = []
    for axis, value in zip(axes, header, strict=True):
        if axis.partition(".")[0] != "defense":
            kept.append(value)
    return tuple(kept)
