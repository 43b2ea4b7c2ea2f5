"""What can go wrong, as exceptions whose text a user can act on.

Every message says what was wrong, where, and what would be right. The command line prints it
without a traceback and exits with `exit_code`; anything that is not a `BenchError` is our own bug
and exits with 70.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


class BenchError(Exception):
    """Base of every error that the user can mend."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a grid file.

    `key` is the dotted path as a user would write it (`attack[2].poison_rate`); `line` is 1-based,
    or None where the file could not be read at all; `hint` says what would be right.
    """

    file: Path
    line: int | None
    key: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        subject = f"{self.key}: " if self.key else ""
        hint = f"\n    {self.hint}" if self.hint else ""
        return f"{place}: {subject}{self.what}{hint}"


class GridError(BenchError):
    """A grid file that cannot be run; carries every problem found, not only the first."""

    def __init__(self, problems: Problem | Sequence[Problem]) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class UnknownName(BenchError):
    """A name that no plugin registered."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        super().__init__(f"unknown {kind} {name!r}. {suggest(name, self.known)}")


class PluginError(BenchError):
    """A plugin that breaks its contract: it does not import, collides, or declares something
    impossible.
    """


class NothingSelected(BenchError):
    """`-k` matched no cell, or the grid has none."""

    exit_code = 5


class StoreError(BenchError):
    """The store cannot be read or written."""

    exit_code = 1


class Incompatible(Exception):
    """Raised by a component's body: this combination makes no sense. The cell is `incompatible`,
    not failed.
    """


class OutOfTime(TimeoutError):
    """The stage's time-out has passed, and its body noticed before the host killed it."""


class Undeclared(Exception):
    """A component asked for something that its `needs` does not name."""


def suggest(name: str, known: Sequence[str]) -> str:
    """`Did you mean: a, b? Known: ...` for a name that is not among `known`."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    listed = ", ".join(known) if known else "nothing"  # "none" is a name that grids have
    return (f"Did you mean: {', '.join(close)}? " if close else "") + f"Known: {listed}."
