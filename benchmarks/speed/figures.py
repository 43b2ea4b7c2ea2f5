"""Figures: two ways of doing a thing, timed in turn, and how they are shown."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from tabulate import tabulate


@dataclass(frozen=True)
class Figure:
    """One line of the table: medians in `unit`, theirs to ours as `ratio`, and what that should be."""

    name: str
    unit: str
    ours: float
    theirs: float | None
    ratio: float | None
    low: float | None
    high: float | None
    goal: str
    reached: bool
    note: str = ""


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compared(
    name: str,
    unit: str,
    scale: float,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    rounds: int,
    goal: float,
    times: int = 1,
) -> Figure:
    """Both ways in turn; seconds times `scale` are in `unit`. `ours` does `times` as much as
    `theirs`.
    """
    ours(), theirs()
    pairs = [(timed(ours) / times, timed(theirs)) for _ in range(rounds)]
    ratios = [slow / fast for fast, slow in pairs]
    low, high = min(ratios), max(ratios)
    mine, other = (statistics.median(column) * scale for column in zip(*pairs, strict=True))
    ratio = statistics.median(ratios)
    return Figure(name, unit, mine, other, ratio, low, high, f"{goal:g} x", ratio >= goal)


def best(work: Callable[[], object], rounds: int = 15) -> float:
    """Seconds of the fastest round: a ceiling is what the machine can do, not what it did on
    average.
    """
    work()
    return min(timed(work) for _ in range(rounds))


def noted(figure: Figure, note: str) -> Figure:
    """The figure with a note."""
    return Figure(**{**asdict(figure), "note": note})


def table(found: list[Figure]) -> str:
    """For the terminal."""

    def told(value: float | None) -> str:
        return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"

    body = [
        [one.name, one.unit, told(one.ours), told(one.theirs), told(one.ratio),
         "" if one.low is None else f"{told(one.low)} to {told(one.high)}", one.goal, "yes" if one.reached else "no",
         one.note]
        for one in found
    ]  # fmt: skip
    head = ["", "unit", "ours", "usual", "ratio", "lowest to highest", "goal", "reached", ""]
    sides = ("left", "left", "right", "right", "right", "left", "right", "left", "left")
    return tabulate(body, head, "simple", disable_numparse=True, colalign=sides)
