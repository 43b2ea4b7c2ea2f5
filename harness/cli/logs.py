"""`bench logs`: what the stages of a grid's cells printed."""

from __future__ import annotations

import argparse

from harness.api.logs import logs
from harness.cli import planning
from harness.errors import StoreError


def run(args: argparse.Namespace) -> int:
    """Print the logs of all stages behind the selected cells that have run, each once. Raises
    StoreError where none has.
    """
    plan, store, _ = planning.load(args, make=False)
    keys: list[str] = []
    for cell in plan.cells:
        keys += cell.stages
    found = False
    for text in logs(plan, store, keys):
        print(text)
        found = True
    if not found:
        raise StoreError(f"{store.root}: nothing of these cells has run. `bench run` runs them")
    return 0
