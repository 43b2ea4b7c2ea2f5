"""From the arguments of a command to a plan: shared by `run`, `plan`, `status` and `report`."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator
from contextlib import contextmanager

from harness.api import planning
from harness.api.planning import Planned


def load(args: argparse.Namespace, *, make: bool = True) -> Planned:
    """Plan `args.grid`, of it the cells of `args.select` if that is given, with the store
    `args.store`. Raises what `harness.api.planning.load` raises.
    """
    with _uncollected():
        return planning.load(args.grid, args.store, getattr(args, "select", None), make=make)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Stop the garbage collector, which would walk through all stages so far again and again to
    find no cycle.

    It leaves alone for good what was made meanwhile: the plan lives as long as the command.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
