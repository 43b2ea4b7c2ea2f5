"""How a stage stands, before a run and after it."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """One word a stage, the same in plans, progress, status and reports."""

    CACHED = "cached"
    TO_RUN = "to run"
    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    INCOMPATIBLE = "incompatible"
    BLOCKED = "blocked"

    @property
    def symbol(self) -> str:
        """One character for narrow places."""
        return _LOOK[self][0]

    @property
    def style(self) -> str:
        """A style of rich."""
        return _LOOK[self][1]

    @property
    def description(self) -> str:
        """What it means, in one line."""
        return _LOOK[self][2]

    @property
    def is_failure(self) -> bool:
        """Whether a run with such a stage has not done what it was asked (exit code 1)."""
        return self in (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.BLOCKED)


_LOOK = {
    Outcome.CACHED: ("=", "dim", "its result is in the store already"),
    Outcome.TO_RUN: ("·", "", "will run"),
    Outcome.DONE: ("✓", "green", "ran, and its result is in the store"),
    Outcome.FAILED: ("✗", "bold red", "ran and failed; tried again on the next run"),
    Outcome.TIMED_OUT: ("⏱", "red", "was killed at its time-out; tried again on the next run"),
    Outcome.INCOMPATIBLE: ("–", "yellow", "makes no sense in this combination"),
    Outcome.BLOCKED: ("▪", "magenta", "could not run, because something it needs failed"),
}
