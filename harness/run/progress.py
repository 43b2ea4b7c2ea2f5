"""What a run shows: bars on a terminal, plain lines elsewhere, and at the end what failed and what
to do about it.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from harness.hookspecs import hookimpl
from harness.outcomes import Outcome

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from harness.run.execute import Run, Running, Summary
    from harness.stages import Stage

INTERVAL = 30.0
"""Seconds between two plain lines when nothing ends."""

NAMED = 8
"""Cells that a command names one by one; with more the whole grid is run again, which runs what is
lacking only.
"""


def watcher(stream: TextIO | None = None) -> PlainLog | Bars:
    """The observer that suits a stream (default: standard error)."""
    stream = sys.stderr if stream is None else stream
    return (
        Bars(stream)
        if stream.isatty() and os.environ.get("TERM", "") != "dumb"
        else PlainLog(stream)
    )


class PlainLog:
    """A line an event, and one now and then: for logs and pipes."""

    def __init__(self, stream: TextIO | None = None, interval: float = INTERVAL) -> None:
        self.stream, self.interval = stream or sys.stderr, interval
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._run: Run | None = None
        self._thread: threading.Thread | None = None

    @hookimpl
    def bench_run_start(self, run: Run) -> None:
        """See hookspecs."""
        self._run = run
        if run.wanted:
            self._say(f"{run.wanted} stages to run on {_places(run)}")
            self._thread = threading.Thread(target=self._beat, name="progress", daemon=True)
            self._thread.start()

    @hookimpl
    def bench_stage_end(self, stage: Stage, outcome: Outcome) -> None:
        """See hookspecs."""
        if self._run is None:
            return
        ended = self._run.ended[stage.key]
        detail = f": {_first_line(ended.message)}" if ended.message else ""
        took = f" {duration(ended.seconds)}" if ended.seconds else ""
        self._say(f"{tally(self._run)}, {stage.title} {outcome.value}{took}{detail}")

    @hookimpl
    def bench_run_end(self, summary: Summary) -> None:
        """See hookspecs."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if summary.ended or summary.interrupted:
            self._say(conclusion(summary))

    def _beat(self) -> None:
        while not self._over.wait(self.interval):
            assert self._run is not None
            at_work = [
                f"{running.stage.title} {_state(running)}"
                for running in list(self._run.running.values())
            ]
            self._say(", ".join([tally(self._run), *at_work]))

    def _say(self, text: str) -> None:
        with self._lock:
            print(text, file=self.stream, flush=True)


class Bars:
    """An overall bar with the time left, and a line for every busy slot, on a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self._live: Live | None = None
        self._run: Run | None = None

    @hookimpl
    def bench_run_start(self, run: Run) -> None:
        """See hookspecs."""
        from rich.console import Console
        from rich.live import Live

        self._run = run
        if run.wanted:
            console = Console(file=self.stream)
            self._live = Live(
                console=console,
                get_renderable=self._picture,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,
            )
            self._live.start()

    @hookimpl
    def bench_stage_end(self, stage: Stage, outcome: Outcome) -> None:
        """See hookspecs."""
        from rich.text import Text

        if self._run is None or self._live is None or outcome in (Outcome.DONE, Outcome.CACHED):
            return
        message = _first_line(self._run.ended[stage.key].message)
        self._live.console.print(
            Text(f"{outcome.symbol} {stage.title} {outcome.value}: {message}", style=outcome.style)
        )

    @hookimpl
    def bench_run_end(self, summary: Summary) -> None:
        """See hookspecs."""
        if self._live is not None:
            self._live.stop()
            print(conclusion(summary), file=self.stream, flush=True)

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        run = self._run
        assert run is not None
        head = Table.grid(padding=(0, 1))
        left = time_left(run)
        text = Text(tally(run) + (f", about {duration(left)} left" if left is not None else ""))
        head.add_row(
            ProgressBar(total=max(1, run.wanted), completed=len(run.ended), width=30), text
        )
        lines = Table.grid(padding=(0, 1))
        for running in sorted(run.running.values(), key=lambda running: running.slot.name):
            step, total = _steps(running.progress)
            bar = ProgressBar(total=total or 1, completed=step, width=12, pulse=not total)
            lines.add_row(
                f"  {running.slot.name}",
                bar,
                Text(running.stage.title),
                Text(_state(running), style="dim"),
            )
        return Group(head, lines)


def tally(run: Run) -> str:
    """`12/57 done, 1 failed`: ended well of all that are to run, then the other ends by name."""
    counts: dict[Outcome, int] = defaultdict(int)
    for ended in list(run.ended.values()):
        counts[ended.outcome] += 1
    return _tally(counts, run.wanted)


def conclusion(summary: Summary) -> str:
    """The last line of a run."""
    wanted = len(summary.ended) + summary.left
    text = f"{_tally(summary.counts, wanted)} in {duration(summary.seconds)}"
    return f"interrupted: {text}; what is done is kept" if summary.interrupted else text


def time_left(run: Run) -> float | None:
    """Seconds until the run is over, judged by the stages of the same kind that ended in it; None
    at its start.

    A stage kind that has not ended yet is taken to last as long as the mean of all.
    """
    seen: dict[str, list[float]] = defaultdict(list)
    stages, ended = run.plan.stages, dict(run.ended)
    for key, end in ended.items():
        if end.outcome is Outcome.DONE:
            seen[stages[key].kind].append(end.seconds)
    lengths = [seconds for group in seen.values() for seconds in group]
    if not lengths:
        return None
    mean = {kind: sum(group) / len(group) for kind, group in seen.items()}
    usual = sum(lengths) / len(lengths)
    to_run = [
        key for key in stages if run.plan.outcome.get(key) is Outcome.TO_RUN and key not in ended
    ]
    work = sum(mean.get(stages[key].kind, usual) for key in to_run)
    now = time.monotonic()
    work -= sum(
        min(now - item.since, mean.get(item.stage.kind, usual))
        for item in list(run.running.values())
    )
    return max(0.0, work) / max(1, min(len(run.slots), len(to_run)))


def failures(
    summary: Summary, command: str = "bench run", cells: Mapping[str, Sequence[str]] | None = None
) -> str:
    """What failed, by reason, with its log and the command that runs just those cells again; "" if
    nothing did.

    `command` runs the whole grid; `cells` holds, by stage key, the names of the cells that need the
    stage, as `-k` understands them.
    """
    reasons: dict[str, list[str]] = defaultdict(list)
    blocked = 0
    for key, ended in summary.failures.items():
        if ended.outcome is Outcome.BLOCKED:
            blocked += 1
        else:
            reasons[f"{ended.outcome.value}: {_first_line(ended.message)}"].append(key)
    if not reasons and not blocked:
        return ""
    lines = []
    for reason, keys in reasons.items():
        lines.append(reason)
        for key in keys:
            log = summary.ended[key].log
            lines.append(f"  {summary.stages[key].title}" + (f"  (log: {log})" if log else ""))
    if blocked:
        lines.append(f"blocked by these: {blocked} more {'stage' if blocked == 1 else 'stages'}")
    lines += ["To try just these again:", f"  {again(summary, command, cells or {})}"]
    return "\n".join(lines)


def again(summary: Summary, command: str, cells: Mapping[str, Sequence[str]]) -> str:
    """The command that runs the failed cells again."""
    names = sorted({name for key in summary.failures for name in cells.get(key, ())})
    return f"{command} -k {shlex.quote(' or '.join(names))}" if 0 < len(names) <= NAMED else command


def duration(seconds: float) -> str:
    """`3.1 s`, `4 min 05 s`, `2 h 07 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def _tally(counts: Mapping[Outcome, int], wanted: int) -> str:
    well = counts.get(Outcome.DONE, 0) + counts.get(Outcome.CACHED, 0)
    shown = (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.BLOCKED, Outcome.INCOMPATIBLE)
    others = [f"{counts[outcome]} {outcome.value}" for outcome in shown if counts.get(outcome)]
    return ", ".join([f"{well}/{wanted} done", *others])


def _places(run: Run) -> str:
    names = [slot.name for slot in run.slots]
    return (
        ", ".join(names) if len(names) <= 4 else f"{len(names)} slots ({names[0]} to {names[-1]})"
    )


def _steps(progress: Mapping[str, Any] | None) -> tuple[float, float]:
    """(step, total) where the worker tells them as numbers, else zeros."""
    step, total = (progress or {}).get("step"), (progress or {}).get("total")
    return (
        (step, total)
        if isinstance(step, int | float) and isinstance(total, int | float)
        else (0, 0)
    )


def _state(running: Running) -> str:
    step, total = _steps(running.progress)
    loss = (running.progress or {}).get("loss")
    parts = [f"{step:g}/{total:g}"] if total else []
    if isinstance(loss, int | float):
        parts.append(f"loss {loss:.3g}")
    return " ".join([*parts, duration(time.monotonic() - running.since)])


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
