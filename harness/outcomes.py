"""The states of a stage, before a run and after it."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Outcome(Enum):
    """The state of a stage in one word, the same in plans, progress, status and reports."""

    CACHED = "cached"
    TO_RUN = "to run"
    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    PAUSED = "paused"
    INCOMPATIBLE = "incompatible"
    BLOCKED = "blocked"

    @property
    def symbol(self) -> str:
        """The character that stands for it in narrow places."""
        return _LOOKS[self].symbol

    @property
    def style(self) -> str:
        """The style of rich that it is shown in."""
        return _LOOKS[self].style

    @property
    def description(self) -> str:
        """Its meaning, in one line."""
        return _LOOKS[self].description

    @property
    def is_failure(self) -> bool:
        """True where a run with such a stage has not done what it was asked (exit code 1)."""
        return self in (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.BLOCKED)


class _Look(NamedTuple):
    symbol: str
    style: str
    description: str


_LOOKS = {
    Outcome.CACHED: _Look("=", "dim", "its result is in the store already"),
    Outcome.TO_RUN: _Look("·", "", "will run"),
    Outcome.DONE: _Look("✓", "green", "ran, and its result is in the store"),
    Outcome.FAILED: _Look("✗", "bold red", "ran and failed; tried again on the next run"),
    Outcome.TIMED_OUT: _Look("⏱", "red", "was killed at its time-out; tried again on the next run"),
    Outcome.PAUSED: _Look("‖", "cyan", "was stopped on the way; the next run goes on from there"),
    Outcome.INCOMPATIBLE: _Look("–", "yellow", "makes no sense in this combination"),
    Outcome.BLOCKED: _Look("▪", "magenta", "could not run, because something it needs failed"),
}
