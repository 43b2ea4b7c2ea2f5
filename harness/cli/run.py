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
from harness.registry.names import collision
from harness.report import results

if TYPE_CHECKING:
    from harness.plan.plan import Plan, PlannedCell
    from harness.run.execute import Options


STRICT = 3
ROUNDS = 3
"""How often work that turned out damaged when it was read is made again in one run."""


def run(args: argparse.Namespace) -> int:
    """Plan, execute, report. Exit code 0: every compatible cell has its rows; 1: something failed;
    3: `--strict`.
    """
    planned = planning.load(args)
    registry = planned.resolver.registry
    troubles = [f"plugin {plugin.origin} is broken: {plugin.reason}" for plugin in registry.broken]
    troubles += [collision(f"{kind} {name!r}", who) for kind, name, who in registry.collisions]
    for trouble in troubles:
        print(f"bench: {trouble}", file=sys.stderr)
    if troubles and args.strict:
        return STRICT
    for _ in range(ROUNDS):
        code = _make(planned, args)
        rows = results.rows(planned.plan, planned.store)
        # Reading checks what planning took for whole: what was damaged has been set aside by now.
        if code or not any(row.status is Outcome.TO_RUN for row in rows):
            break
        planned.plan.refresh(planned.store)
    report.write(planned, rows, sys.stdout)
    return code or report.code(rows)


def _make(planned: planning.Planned, args: argparse.Namespace) -> int:
    """Run what is to run, if anything; the exit code that it amounts to."""
    from harness.run import observers, progress
    from harness.run.execute import execute

    plan, store = planned.plan, planned.store
    to_run, cached = (_count(plan, outcome) for outcome in (Outcome.TO_RUN, Outcome.CACHED))
    print(f"{len(plan.cells)} cells, {to_run} to run, {cached} cached", file=sys.stderr)
    if not to_run:
        return 0
    summary = execute(
        plan, store, options(args, plan), [progress.watcher(sys.stderr), *observers.outside()]
    )
    if summary.failures:
        print(progress.failures(summary, _command(args), _cells(plan)), file=sys.stderr)
    plan.refresh(store)
    return summary.exit_code


def options(args: argparse.Namespace, plan: Plan) -> Options:
    """How the options of a command let the stages of a plan run."""
    from harness.run.execute import Options

    chosen = Options(args.jobs, args.threads, args.device or "auto", args.timeout, args.engine)
    return replace(chosen, data_roots=(*chosen.data_roots, *_data_files(plan)))


def _data_files(plan: Plan) -> set[Path]:
    """The files that datasets of the plan are read from."""
    params = [
        stage.payload["component"]["params"]
        for stage in plan.stages.values()
        if stage.kind == "data"
    ]
    values = [value for table in params for value in table.values() if isinstance(value, str)]
    return {Path(value) for value in values if Path(value).is_absolute()}


def _count(plan: Plan, outcome: Outcome) -> int:
    return sum(found is outcome for found in plan.outcome.values())


def _command(args: argparse.Namespace) -> str:
    """The command line again, without `-k`."""
    words = ["bench", "run", str(args.grid)]
    for name in ("store", "jobs", "threads", "device", "timeout"):
        if getattr(args, name) is not None:
            words += [f"--{name}", str(getattr(args, name))]
    return shlex.join(words)


def _cells(plan: Plan) -> dict[str, Sequence[str]]:
    """For each stage the cells that need it, as `-k` understands them."""
    found: dict[str, list[str]] = defaultdict(list)
    for planned in plan.cells:
        for key in _upstream(plan, planned):
            found[key].append(quote(planned.cell.name))
    return dict(found)


def _upstream(plan: Plan, cell: PlannedCell) -> set[str]:
    pending, seen = list(cell.stages), set[str]()
    while pending:
        key = pending.pop()
        if key not in seen:
            seen.add(key)
            pending += [item.key for item in plan.graph.stages[key].inputs]
    return seen
