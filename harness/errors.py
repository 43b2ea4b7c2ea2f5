"""Exceptions whose text a user can act on.

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
    description: str
    hint: str = ""

    def __str__(self) -> str:
        text = str(self.file)
        if self.line:
            text += f":{self.line}"
        if self.key:
            text += f": {self.key}"
        text += f": {self.description}"
        if self.hint:
            text += f"\n    {self.hint}"
        return text


class GridError(BenchError):
    """Raised for a grid file that cannot be run; carries all problems found, not only the first."""

    def __init__(self, problems: Problem | Sequence[Problem]) -> None:
        if isinstance(problems, Problem):
            problems = [problems]
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UnknownName(BenchError):
    """Raised for a name that no plugin registered."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind = kind
        self.name = name
        self.known = sorted(known)
        super().__init__(f"unknown {kind} {name!r}. {suggest(name, self.known)}")


class PluginError(BenchError):
    """Raised for a plugin that breaks its contract: it does not import, collides, or declares
    something impossible.
    """


class NothingSelected(BenchError):
    """Raised where `-k` matches no cell, or the grid has none."""

    exit_code = 5


class StoreError(BenchError):
    """Raised where the store cannot be read or written."""

    exit_code = 1


class Incompatible(Exception):
    """Raised by a component's body where this combination makes no sense. The cell is then
    `incompatible`, not failed.
    """


class OutOfTime(TimeoutError):
    """Raised where a stage's time-out has passed and its body notices before the host kills it."""


class Paused(BaseException):
    """Raised at the boundary of a loop where the host asked the stage to stop and its state has
    been kept. Not an Exception: no method means this one where it catches those.
    """


class Unfit(Exception):
    """Raised where what was kept of a stage does not belong to it as it is now: it must start
    over.
    """


class Undeclared(Exception):
    """Raised where a component asks for something that its `needs` does not name."""


def suggest(name: str, known: Sequence[str]) -> str:
    """Return `Did you mean: a, b? Known: ...` for a name that is not among `known`."""
    if not known:
        return "Known: nothing."  # "none" is a name that grids have
    advice = f"Known: {', '.join(known)}."
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        advice = f"Did you mean: {', '.join(close)}? {advice}"
    return advice


def said(error: BaseException) -> str:
    """Return an exception's text as a reason that makes sense alone: with the exception's name
    where the text is no sentence, such as the key of a KeyError or the code of a `sys.exit`.
    """
    name = type(error).__name__
    text = str(error)
    if not text:
        return name
    if isinstance(error, KeyError | SystemExit | StopIteration):
        return f"{name}: {text}"
    return text
