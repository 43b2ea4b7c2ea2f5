"""A run in words and figures: how far it is, the time left, what failed, what to do about it."""

from __future__ import annotations

import shlex
import shutil
import textwrap
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from harness.outcomes import Outcome

if TYPE_CHECKING:  # it imports pluggy, which verbs that only need `duration` can do without
    from harness.hookspecs import RunSummary, StageEnd, WatchedRun, WatchedStage

NAMED = 8
"""Cells that a command names one by one; with more the whole grid is run again, which runs what is
lacking only.
"""

_SHOWN = (
    Outcome.FAILED,
    Outcome.TIMED_OUT,
    Outcome.BLOCKED,
    Outcome.PAUSED,
    Outcome.INCOMPATIBLE,
)


def label(stage: WatchedStage) -> str:
    """Return how a stage is shown: its kind, and set apart from it the cell as tables label it."""
    return f"{stage.kind}  {stage.title}"


def duration(seconds: float) -> str:
    """Return `3.1 s`, `4 min 05 s`, `2 h 07 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest:02d} min"


def continued(times: int) -> str:
    """Return `continued once`, `continued twice`, `continued 3 times`."""
    words = {1: "once", 2: "twice"}
    return f"continued {words.get(times, f'{times} times')}"


def first_line(text: str) -> str:
    """Return the first line of a message."""
    return text.strip().partition("\n")[0]


class Reasons:
    """Reasons that were told: each is told once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def once(self, message: str) -> str:
        """Return the first line of a message, without a reason at its end that was told before;
        `as above` where nothing is left.
        """
        line = first_line(message)
        if line in self._told:
            return "as above"
        for reason in self._told:
            if line.endswith(f": {reason}"):
                return line.removesuffix(f": {reason}")
        self._told.add(line)
        return line


def tally(run: WatchedRun) -> str:
    """Return `12/57 done, 1 failed`: ended well of all that are to run, then other ends by name."""
    counts: dict[Outcome, int] = defaultdict(int)
    for ended in list(run.ended.values()):
        counts[ended.outcome] += 1
    return _tally(counts, run.wanted)


def conclusion(summary: RunSummary) -> str:
    """Return the last line of a run."""
    wanted = len(summary.ended) + summary.left
    text = f"{_tally(summary.counts, wanted)} in {duration(summary.seconds)}"
    if summary.interrupted:
        return f"interrupted: {text}; what is done is kept"
    return text


def _tally(counts: Mapping[Outcome, int], wanted: int) -> str:
    well = counts.get(Outcome.DONE, 0) + counts.get(Outcome.CACHED, 0)
    parts = [f"{well}/{wanted} done"]
    for outcome in _SHOWN:
        count = counts.get(outcome, 0)
        if count:
            parts.append(f"{count} {outcome.value}")
    return ", ".join(parts)


def time_left(run: WatchedRun) -> float | None:
    """Return the seconds until the run is over, judged by the stages of the same kind that ended in
    it; None at its start.

    A stage kind that has not ended yet is taken to last as long as the mean of all.
    """
    stages = run.plan.stages
    ended = dict(run.ended)
    seconds_of: dict[str, list[float]] = defaultdict(list)
    all_seconds = []
    for key, end in ended.items():
        if end.outcome is Outcome.DONE:
            seconds_of[stages[key].kind].append(end.seconds)
            all_seconds.append(end.seconds)
    if not all_seconds:
        return None
    overall = _mean(all_seconds)
    usual = {kind: _mean(seconds) for kind, seconds in seconds_of.items()}
    kept = dict(run.kept)
    running_now = dict(run.running)
    for key, running in running_now.items():
        # What a stage went on from is known by now: another run may have kept more of it since
        # this one began, and what was kept may have turned out to be of no use.
        if running.progress is not None:
            kept[key] = running.progress.get("earlier", 0.0)
    to_run = 0
    work = 0.0
    for key, stage in stages.items():
        if run.plan.outcome.get(key) is Outcome.TO_RUN and key not in ended:
            to_run += 1
            expected = usual.get(stage.kind, overall)
            work += max(0.0, expected - kept.get(key, 0.0))
    now = time.monotonic()
    for key, running in running_now.items():
        expected = usual.get(running.stage.kind, overall)
        left = max(0.0, expected - kept.get(key, 0.0))
        work -= min(now - running.since, left)
    side_by_side = max(1, min(len(run.slots), to_run))
    return max(0.0, work) / side_by_side


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# --- after the run --------------------------------------------------------------------------------


def width_of(stream: TextIO) -> int | None:
    """Return the columns of the terminal that a stream writes to; None where it is no terminal."""
    if stream.isatty():
        return shutil.get_terminal_size().columns
    return None


def failures(
    summary: RunSummary,
    command: str = "bench run",
    cells: Mapping[str, Sequence[str]] | None = None,
    width: int | None = None,
) -> str:
    """Return what failed, by reason, with its log and the command that runs just those cells again;
    "" if nothing did.

    `command` runs the whole grid; `cells` holds, by stage key, the names of the cells that need the
    stage, as `-k` understands them. `width`: columns at which sentences are broken, between words;
    paths and the command never are, so that they can be copied.
    """
    keys_of: dict[str, list[str]] = defaultdict(list)
    blocked = 0
    for key, ended in summary.failures.items():
        if ended.outcome is Outcome.BLOCKED:
            blocked += 1
        else:
            keys_of[_reason(ended)].append(key)
    if not keys_of and not blocked:
        return ""
    lines = []
    for reason, keys in keys_of.items():
        lines += _broken(reason, "", width)
        for key in keys:
            lines += _broken(label(summary.stages[key]), "  ", width)
            log = summary.ended[key].log
            if log is not None:
                lines.append(f"    log: {log}")
    if blocked:
        stages = "stage" if blocked == 1 else "stages"
        lines.append(f"blocked by these: {blocked} more {stages}")
    lines.append("To try just these again:")
    lines.append(f"  {again(summary, command, cells or {})}")
    return "\n".join(lines)


def _reason(ended: StageEnd) -> str:
    return f"{ended.outcome.value}: {first_line(ended.message)}"


def _broken(text: str, indent: str, width: int | None) -> list[str]:
    """Break a line between words, so that it fits; later lines are indented by four more."""
    if width is None or len(indent) + len(text) <= width:
        return [indent + text]
    return textwrap.wrap(
        text,
        max(width, 20),
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def again(summary: RunSummary, command: str, cells: Mapping[str, Sequence[str]]) -> str:
    """Return the command that runs the failed cells again."""
    names: set[str] = set()
    for key in summary.failures:
        names.update(cells.get(key, ()))
    if not 0 < len(names) <= NAMED:
        return command
    expression = " or ".join(sorted(names))
    return f"{command} -k {shlex.quote(expression)}"
