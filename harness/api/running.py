"""Making what a plan still lacks: shared by `bench run`, `bench preview` and `Benchmark.run`."""

from __future__ import annotations

import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from harness.api.planning import Planned
from harness.errors import BenchError
from harness.grid import quote
from harness.outcomes import Outcome
from harness.plan.plan import Plan
from harness.stages.payloads import DataPayload
from harness.store import scratch
from harness.store.objects import Store

if TYPE_CHECKING:
    from harness.report.results import Row
    from harness.run.state import Options, Summary

ROUNDS = 3
"""Rounds in which damaged work is made again."""
ON_TIMEOUT = ("fail", "pause")
"""What may happen to a stage that is late and keeps its state; the first one is the default."""


@dataclass(frozen=True)
class Choices:
    """Choices of how stages run, named as the options of `bench run`; with None, or the defaults
    here, a command says nothing of them. None enters a key.
    """

    jobs: int | None = None
    threads: int | None = None
    device: str | None = None
    timeout: float | None = None
    on_timeout: str = ON_TIMEOUT[0]
    checkpoint: float | None = None
    engine: str = "local"

    def options(self, plan: Plan) -> Options:
        """Return how the stages of a plan run then. Raises BenchError for what cannot be."""
        # A command that finds everything done is quicker without this.
        from harness.run.state import Options

        if self.on_timeout not in ON_TIMEOUT:
            known = ", ".join(ON_TIMEOUT)
            raise BenchError(f"--on-timeout {self.on_timeout}: unknown. Known: {known}")
        device = self.device or "auto"
        options = Options(self.jobs, self.threads, device, self.timeout, self.engine)
        if self.checkpoint is not None:
            options = replace(options, checkpoint=self.checkpoint)
        path = plan.grid.path.absolute()
        return replace(
            options,
            grid=path if path.is_file() else None,  # a grid may be made of a table
            pause=self.on_timeout == "pause",
            data_roots=(*options.data_roots, *_data_files(plan)),
        )

    def words(self) -> list[str]:
        """Return the options of a command line that chooses the same."""
        words = []
        for member in fields(self):
            value = getattr(self, member.name)
            if value != member.default:
                words += [f"--{member.name.replace('_', '-')}", str(value)]
        return words


def command(grid: Path, store: Path | None = None, choices: Choices | None = None) -> str:
    """Return the command line that runs a grid."""
    words = ["bench", "run", str(grid)]
    if store is not None:
        words += ["--store", str(store)]
    if choices is not None:
        words += choices.words()
    return shlex.join(words)


@dataclass(frozen=True)
class Made:
    """What came of making a plan: the rows that the store has by now, and the exit code that run
    and rows amount to.
    """

    rows: Sequence[Row]
    exit_code: int


def complete(planned: Planned, choices: Choices, again: str, stream: TextIO | None = None) -> Made:
    """Run what has to run, and again what turns out to be damaged when rows are read.

    `again` is the command that tries failures again. Progress and failures go to `stream` (default:
    standard error).
    """
    from harness.report import results

    stream = stream or sys.stderr
    for _ in range(ROUNDS):
        code = _make(planned, choices, again, stream)
        rows = results.rows(planned.plan, planned.store)
        # Reading checks what planning took for whole: what was damaged has been set aside by now.
        lacking = [row for row in rows if row.status is Outcome.TO_RUN]
        if code or not lacking:
            break
        planned.plan.refresh(planned.store)
    return Made(rows, code or results.exit_code(rows))


def _make(planned: Planned, choices: Choices, again: str, stream: TextIO) -> int:
    """Run what has to run, if anything; return the exit code that it amounts to."""
    plan = planned.plan
    outcomes = list(plan.outcome.values())
    to_run = outcomes.count(Outcome.TO_RUN)
    cached = outcomes.count(Outcome.CACHED)
    print(f"{len(plan.cells)} cells, {to_run} to run, {cached} cached", file=stream)
    if not to_run:
        # A run that has work to do begins with this.
        planned.store.tidy()
        scratch.sweep()
        return 0
    summary = carry_out(plan, planned.store, choices, again, stream)
    plan.refresh(planned.store)
    return summary.exit_code


def carry_out(
    plan: Plan, store: Store, choices: Choices, again: str, stream: TextIO | None = None
) -> Summary:
    """Run what has to run, if anything, with progress on `stream` (default: standard error), and
    say there what failed; `again` is the command that tries it again.
    """
    # As in `options`.
    from harness.run import account, observers, progress
    from harness.run.execute import execute
    from harness.run.state import Summary

    if Outcome.TO_RUN not in plan.outcome.values():
        return Summary(plan.stages, ended={}, seconds=0.0)
    stream = stream or sys.stderr
    watchers = [progress.watcher(stream), *observers.outside()]
    summary = execute(plan, store, choices.options(plan), watchers)
    if summary.failures:
        width = account.width_of(stream)
        print(account.failures(summary, again, _cells(plan), width), file=stream)
    return summary


def _data_files(plan: Plan) -> set[Path]:
    """Return the files that datasets of the plan are read from."""
    files = set()
    for stage in plan.stages.values():
        if not isinstance(stage.payload, DataPayload):
            continue
        for value in stage.payload.component.params.values():
            if isinstance(value, str) and Path(value).is_absolute():
                files.add(Path(value))
    return files


def _cells(plan: Plan) -> dict[str, Sequence[str]]:
    """Return for each stage the cells that need it, as `-k` understands them."""
    cells: dict[str, list[str]] = defaultdict(list)
    for planned in plan.cells:
        for key in plan.upstream(planned.stages):
            cells[key].append(quote(planned.cell.name))
    return dict(cells)
