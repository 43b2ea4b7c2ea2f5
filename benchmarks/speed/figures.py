"""Figures: two ways of doing a thing, timed in turn, and how they are shown."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from tabulate import tabulate


@dataclass(frozen=True)
class Figure:
    """One line of the table: medians in `unit`, theirs to ours as `ratio`, and the goal for it."""

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


def alone(name: str, unit: str, ours: float, goal: str, reached: bool) -> Figure:
    """Make a figure that there is no usual way for."""
    return Figure(name, unit, ours, None, None, None, None, goal, reached)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
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
    """Time both ways in turn; seconds times `scale` are in `unit`. `ours` does `times` as much as
    `theirs`.
    """
    ours()
    theirs()
    our_seconds = []
    their_seconds = []
    ratios = []
    for _ in range(rounds):
        fast = timed(ours) / times
        slow = timed(theirs)
        our_seconds.append(fast)
        their_seconds.append(slow)
        ratios.append(slow / fast)
    ratio = statistics.median(ratios)
    return Figure(
        name,
        unit,
        ours=statistics.median(our_seconds) * scale,
        theirs=statistics.median(their_seconds) * scale,
        ratio=ratio,
        low=min(ratios),
        high=max(ratios),
        goal=f"{goal:g} x",
        reached=ratio >= goal,
    )


def best(work: Callable[[], object], rounds: int = 15) -> float:
    """Return the seconds of the fastest round: a ceiling is what the machine can do, not what it
    did on average.
    """
    work()
    return min(timed(work) for _ in range(rounds))


def noted(figure: Figure, note: str) -> Figure:
    """Return the figure with a note."""
    return replace(figure, note=note)


def table(figures: list[Figure]) -> str:
    """Lay out the figures for the terminal."""
    body = []
    for figure in figures:
        spread = ""
        if figure.low is not None:
            spread = f"{_number(figure.low)} to {_number(figure.high)}"
        body.append(
            [
                figure.name,
                figure.unit,
                _number(figure.ours),
                _number(figure.theirs),
                _number(figure.ratio),
                spread,
                figure.goal,
                "yes" if figure.reached else "no",
                figure.note,
            ]
        )
    head = ["", "unit", "ours", "usual", "ratio", "lowest to highest", "goal", "reached", ""]
    sides = ("left", "left", "right", "right", "right", "left", "right", "left", "left")
    return tabulate(body, head, "simple", disable_numparse=True, colalign=sides)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
