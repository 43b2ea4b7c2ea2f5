"""`bench run`: make what a grid still lacks, then print its tables."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import planning, report
from harness.grid import quote
from harness.outcomes import Outcome
from harness.plan.cells import PlannedCell
from harness.plan.plan import Plan
from harness.registry.names import Registry, collision
from harness.report import results
from harness.stages.payloads import DataPayload
from harness.store import scratch
from harness.store.objects import Store

if TYPE_CHECKING:
    from harness.run.state import Options, Summary

STRICT = 3
"""Exit code where a plugin is broken and `--strict` is given."""
ROUNDS = 3
"""Rounds in which damaged work is made again."""


def run(args: argparse.Namespace) -> int:
    """Plan, execute, report. Exit code 0: every compatible cell has its rows; 1: something failed;
    3: `--strict`.
    """
    planned = planning.load(args)
    faults = _faults(planned.resolver.registry)
    for fault in faults:
        print(f"bench: {fault}", file=sys.stderr)
    if faults and args.strict:
        return STRICT
    for _ in range(ROUNDS):
        code = _make(planned, args)
        rows = results.rows(planned.plan, planned.store)
        # Reading checks what planning took for whole: what was damaged has been set aside by now.
        lacking = [row for row in rows if row.status is Outcome.TO_RUN]
        if code or not lacking:
            break
        planned.plan.refresh(planned.store)
    report.write(planned, rows, sys.stdout)
    return code or report.code(rows)


def _faults(registry: Registry) -> list[str]:
    """Name what is broken among the plugins, whether the grid needs it or not."""
    faults = [f"plugin {plugin.origin} is broken: {plugin.reason}" for plugin in registry.broken]
    for kind, name, origins in registry.collisions:
        faults.append(collision(f"{kind} {name!r}", origins))
    return faults


def _make(planned: planning.Planned, args: argparse.Namespace) -> int:
    """Run what has to run, if anything; return the exit code that it amounts to."""
    plan = planned.plan
    outcomes = list(plan.outcome.values())
    to_run = outcomes.count(Outcome.TO_RUN)
    cached = outcomes.count(Outcome.CACHED)
    print(f"{len(plan.cells)} cells, {to_run} to run, {cached} cached", file=sys.stderr)
    if not to_run:
        # A run that has work to do begins with this.
        planned.store.tidy()
        scratch.sweep()
        return 0
    summary = carry_out(plan, planned.store, args, _command(args))
    plan.refresh(planned.store)
    return summary.exit_code


def carry_out(plan: Plan, store: Store, args: argparse.Namespace, command: str) -> Summary:
    """Run what has to run, with progress on stderr, and say there what failed; `command` is the one
    that tries it again.
    """
    # A command that finds everything done is quicker without these.
    from harness.run import account, observers, progress
    from harness.run.execute import execute
    from harness.run.state import Summary

    if Outcome.TO_RUN not in plan.outcome.values():
        return Summary(plan.stages, ended={}, seconds=0.0)
    watchers = [progress.watcher(sys.stderr), *observers.outside()]
    summary = execute(plan, store, _options(args, plan), watchers)
    if summary.failures:
        width = account.width_of(sys.stderr)
        print(account.failures(summary, command, _cells(plan), width), file=sys.stderr)
    return summary


def _options(args: argparse.Namespace, plan: Plan) -> Options:
    """Return how the options of a command let the stages of a plan run."""
    from harness.run.state import Options  # as in `carry_out`

    options = Options(args.jobs, args.threads, args.device or "auto", args.timeout, args.engine)
    if args.checkpoint is not None:
        options = replace(options, checkpoint=args.checkpoint)
    return replace(
        options,
        pause=args.on_timeout == "pause",
        data_roots=(*options.data_roots, *_data_files(plan)),
    )


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


def _command(args: argparse.Namespace) -> str:
    """Write the command line again, without `-k`."""
    words = ["bench", "run", str(args.grid)]
    for name in ("store", "jobs", "threads", "device", "timeout", "checkpoint"):
        value = getattr(args, name)
        if value is not None:
            words += [f"--{name}", str(value)]
    if args.on_timeout != "fail":
        words += ["--on-timeout", args.on_timeout]
    return shlex.join(words)


def _cells(plan: Plan) -> dict[str, Sequence[str]]:
    """Return for each stage the cells that need it, as `-k` understands them."""
    cells: dict[str, list[str]] = defaultdict(list)
    for planned in plan.cells:
        for key in _upstream(plan, planned):
            cells[key].append(quote(planned.cell.name))
    return dict(cells)


def _upstream(plan: Plan, cell: PlannedCell) -> set[str]:
    """Return the stages of a cell, and all that these are made from."""
    pending = list(cell.stages)
    seen: set[str] = set()
    while pending:
        key = pending.pop()
        if key in seen:
            continue
        seen.add(key)
        pending += [item.key for item in plan.graph.stages[key].inputs]
    return seen
