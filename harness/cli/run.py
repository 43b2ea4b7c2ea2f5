"""`bench run`: make what a grid still lacks, then print its tables."""

from __future__ import annotations

import argparse
import sys

from harness.api import running
from harness.api.running import Choices
from harness.cli import planning, report
from harness.registry.names import Registry, collision

STRICT = 3
"""Exit code where a plugin is broken and `--strict` is given."""


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
    chosen = choices(args)
    made = running.complete(planned, chosen, running.command(args.grid, args.store, chosen))
    report.write(planned, made.rows, sys.stdout)
    return made.exit_code


def choices(args: argparse.Namespace) -> Choices:
    """Return what the options of a command say of how stages run."""
    return Choices(
        args.jobs,
        args.threads,
        args.device,
        args.timeout,
        args.on_timeout,
        args.checkpoint,
        args.engine,
    )


def _faults(registry: Registry) -> list[str]:
    """Name what is broken among the plugins, whether the grid needs it or not."""
    faults = [f"plugin {plugin.origin} is broken: {plugin.reason}" for plugin in registry.broken]
    for kind, name, origins in registry.collisions:
        faults.append(collision(f"{kind} {name!r}", origins))
    return faults
