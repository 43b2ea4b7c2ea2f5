"""`bench run`: make what a grid still lacks, then print its tables."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.grid import quote
from harness.outcomes import Outcome

if TYPE_CHECKING:
    from harness.execute import Summary
    from harness.plan import Plan, PlannedCell


def run(args: argparse.Namespace) -> int:
    """Plan, execute, report. Exit code 0: every compatible cell has its rows; 1: something failed; 3: `--strict`."""
    from harness import observers, progress
    from harness.cli import planning, report
    from harness.execute import Options, execute

    planned = planning.load(args)
    plan, store = planned.plan, planned.store
    broken = planned.resolver.registry.broken
    for plugin in broken:
        print(f"bench: plugin {plugin.origin} is broken: {plugin.reason}", file=sys.stderr)
    if broken and args.strict:
        return 3
    options = Options(args.jobs, args.threads, args.device or "auto", args.timeout, args.engine)
    to_run = sum(outcome is Outcome.TO_RUN for outcome in plan.outcome.values())
    cached = sum(outcome is Outcome.CACHED for outcome in plan.outcome.values())
    print(f"{len(plan.cells)} cells, {to_run} to run, {cached} cached", file=sys.stderr)
    if to_run:
        summary = execute(plan, store, options, [progress.watcher(sys.stderr), *observers.outside()])
        if failed := progress.failures(summary, _command(args), _cells(plan)):
            print(failed, file=sys.stderr)
        plan.refresh(store)
    report.show(planned, sys.stdout)
    return summary.exit_code if to_run else 0


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


