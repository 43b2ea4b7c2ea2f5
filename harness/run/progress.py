"""The display of a run while it goes on: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from harness.hookspecs import RunSummary, StageAtWork, WatchedRun, WatchedStage, hookimpl
from harness.outcomes import Outcome
from harness.run.account import (
    Reasons,
    conclusion,
    continued,
    duration,
    label,
    tally,
    time_left,
)

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

INTERVAL = 30.0
"""Seconds between two plain lines when nothing ends."""

NARROW = 70
"""Columns of a terminal below which bars and losses of single stages are left out."""

_BAR = 12
"""Columns of the bar of a single stage."""

_SHORTEST = 8
"""Columns that a title has at least."""


def watcher(stream: TextIO | None = None) -> PlainLog | Bars:
    """Return the observer that suits a stream (default: standard error)."""
    if stream is None:
        stream = sys.stderr
    if stream.isatty() and os.environ.get("TERM", "") != "dumb":
        return Bars(stream)
    return PlainLog(stream)


class PlainLog:
    """One line for each event, and one now and then: for logs and pipes."""

    def __init__(self, stream: TextIO | None = None, interval: float = INTERVAL) -> None:
        self.stream = stream or sys.stderr
        self.interval = interval
        self._told = Reasons()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._run: WatchedRun | None = None
        self._thread: threading.Thread | None = None

    @hookimpl
    def bench_run_start(self, run: WatchedRun) -> None:
        """See hookspecs."""
        self._run = run
        if run.wanted:
            self._print(f"{run.wanted} stages to run on {_places(run)}")
            thread = threading.Thread(target=self._beat, name="progress", daemon=True)
            thread.start()
            self._thread = thread

    @hookimpl
    def bench_stage_end(self, stage: WatchedStage, outcome: Outcome) -> None:
        """See hookspecs."""
        if self._run is None:
            return
        ended = self._run.ended[stage.key]
        line = f"{tally(self._run)}; {label(stage)}  {outcome.value}"
        if ended.seconds:
            line += f" {duration(ended.seconds)}"
        if ended.message:
            line += f": {self._told.once(ended.message)}"
        self._print(line)

    @hookimpl
    def bench_run_end(self, summary: RunSummary) -> None:
        """See hookspecs."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if summary.ended or summary.interrupted:
            self._print(conclusion(summary))

    def _beat(self) -> None:
        """Print a line now and then until the run is over."""
        assert self._run is not None
        while not self._over.wait(self.interval):
            at_work = list(self._run.running.values())
            stages = [f"{label(running.stage)}  {_state(running)}" for running in at_work]
            self._print("; ".join([tally(self._run), *stages]))

    def _print(self, text: str) -> None:
        with self._lock:
            print(text, file=self.stream, flush=True)


class Bars:
    """An overall bar with the time left, and a line for every busy slot, on a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self._told = Reasons()
        self._live: Live | None = None
        self._run: WatchedRun | None = None

    @hookimpl
    def bench_run_start(self, run: WatchedRun) -> None:
        """See hookspecs."""
        # Rich is imported where something is shown: that takes longer than many a command.
        from rich.console import Console
        from rich.live import Live

        self._run = run
        if run.wanted:
            self._live = Live(
                Picture(run),
                console=Console(file=self.stream),
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,
            )
            self._live.start()

    @hookimpl
    def bench_stage_end(self, stage: WatchedStage, outcome: Outcome) -> None:
        """See hookspecs."""
        from rich.text import Text  # slow to import, see `bench_run_start`

        if self._run is None or self._live is None or outcome in (Outcome.DONE, Outcome.CACHED):
            return
        message = self._told.once(self._run.ended[stage.key].message)
        line = f"{outcome.symbol} {label(stage)}  {outcome.value}: {message}"
        self._live.console.print(Text(line, style=outcome.style))

    @hookimpl
    def bench_run_end(self, summary: RunSummary) -> None:
        """See hookspecs."""
        if self._live is not None:
            self._live.stop()
            self._live.console.print(conclusion(summary), markup=False, highlight=False)


class Picture:
    """The picture of a run that `Bars` shows, for a terminal of any width."""

    def __init__(self, run: WatchedRun) -> None:
        self.run = run

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._head(options.max_width)
        yield self._lines(options.max_width)

    def _head(self, width: int) -> Table:
        """Draw the overall bar, how much is done, and the time left."""
        # Slow to import, see `Bars.bench_run_start`.
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        text = tally(self.run)
        left = time_left(self.run)
        if left is not None:
            text += f", about {duration(left)} left"
        bar = ProgressBar(
            total=max(1, self.run.wanted), completed=len(self.run.ended), width=min(30, width // 4)
        )
        head = Table.grid(padding=(0, 1))
        head.add_row(bar, Text(text))
        return head

    def _lines(self, width: int) -> Table:
        """Draw a line for every busy slot."""
        # Slow to import, see `Bars.bench_run_start`.
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        at_work = sorted(self.run.running.values(), key=_slot_name)
        slots = [f"  {running.slot.name}" for running in at_work]
        kinds = [f"{running.stage.kind} " for running in at_work]
        states = [_state(running, loss=width >= NARROW) for running in at_work]
        # The title gives way where there is no room for all, with a blank between each.
        room = width - _longest(slots) - _longest(kinds) - _longest(states) - 3
        if width >= NARROW:
            room -= _BAR + 1
        lines = Table.grid(padding=(0, 1))
        for running, slot, kind, state in zip(at_work, slots, kinds, states, strict=True):
            cells: list[Text | ProgressBar] = [_cut(slot)]
            if width >= NARROW:
                step, total = _steps(running.progress)
                cells.append(
                    ProgressBar(total=total or 1, completed=step, width=_BAR, pulse=not total)
                )
            title = _end_of(running.stage.title, max(_SHORTEST, room))
            cells += [_cut(kind), _cut(title), _cut(state, "dim")]
            lines.add_row(*cells)
        return lines


def _longest(texts: Sequence[str]) -> int:
    return max((len(text) for text in texts), default=0)


def _end_of(title: str, room: int) -> str:
    """Return a title cut at its beginning: its end, defense and seed, tells stages apart."""
    if len(title) <= room:
        return title
    return f"…{title[len(title) - room + 1 :]}"


def _cut(text: str, style: str = "") -> Text:
    """Return text on one line, cut where there is no room."""
    from rich.text import Text  # slow to import, see `Bars.bench_run_start`

    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _slot_name(running: StageAtWork) -> str:
    return running.slot.name


def _places(run: WatchedRun) -> str:
    names = [slot.name for slot in run.slots]
    if len(names) <= 4:
        return ", ".join(names)
    return f"{len(names)} slots ({names[0]} to {names[-1]})"


def _steps(progress: Mapping[str, Any] | None) -> tuple[float, float]:
    """Return (step, total) where the worker gives them as numbers, else zeros."""
    if progress is None:
        return 0, 0
    step = progress.get("step")
    total = progress.get("total")
    if isinstance(step, int | float) and isinstance(total, int | float):
        return step, total
    return 0, 0


def _state(running: StageAtWork, *, loss: bool = True) -> str:
    """Return `3/10 loss 0.512 1 min 05 s`, as far as the stage reports it, `loss` if asked for."""
    parts = []
    step, total = _steps(running.progress)
    if total:
        parts.append(f"{step:g}/{total:g}")
    if loss and running.progress is not None:
        value = running.progress.get("loss")
        if isinstance(value, int | float):
            parts.append(f"loss {value:.3g}")
    parts.append(duration(time.monotonic() - running.since))
    times = None if running.progress is None else running.progress.get("continued")
    if times:
        parts.append(continued(times))
    return " ".join(parts)
