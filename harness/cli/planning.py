"""From the arguments of a command to a plan: shared by `run`, `plan`, `status`, `report` and
`preview`.

What reads grids and components is imported in functions: `bench status` without a grid must be
quick and needs the store only.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from harness import environment, grid
from harness.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from harness.grid import Cell, Grid
    from harness.plan.plan import Plan
    from harness.registry.resolve import Resolver
    from harness.store.objects import Store


class Planned(NamedTuple):
    """A plan that has just been compared with its store, and the resolver of its components."""

    plan: Plan
    store: Store
    resolver: Resolver


def load(args: argparse.Namespace, *, make: bool = True) -> Planned:
    """Read `args.grid`, select with `args.select` if there is one, resolve, plan, and look into the
    store.

    The store is `args.store`, else $BENCH_STORE, else ./.bench; it is made unless `make` is False,
    once the grid is known to be sound. Raises GridError, NothingSelected, PluginError, StoreError.
    """
    from harness.plan.plan import build

    with _uncollected():
        read, cells = selected(args.grid, getattr(args, "select", None))
        asked = resolver()
        plan = build(read, cells, asked.registry, asked, asked.sources)
        store = open_store(args, make=make)
        plan.refresh(store)
    return Planned(plan, store, asked)


def resolver() -> Resolver:
    """Discover the plugins, and return a resolver of their components."""
    from harness.registry.discovery import discover
    from harness.registry.memo import Memo
    from harness.registry.resolve import Resolver

    memo = Memo()
    return Resolver(discover(memo), memo=memo)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Stop the garbage collector, which would walk through all stages so far again and again to
    find no cycle.

    What was made meanwhile it leaves alone for good: the plan lives as long as the command.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def selected(path: Path, expression: str | None) -> tuple[Grid, list[Cell]]:
    """Return the grid at `path`, and its cells that `-k` leaves, if it is given. Raises GridError,
    NothingSelected.
    """
    read = grid.read(path)
    if not expression:
        return read, list(read.cells)
    cells = grid.select(read.cells, expression)
    if not cells:
        raise grid.nothing_selected(read.cells, expression)
    return read, cells


def open_store(args: argparse.Namespace, *, make: bool) -> Store:
    """Return the store that a command works on. Raises StoreError where there is none to read and
    none may be made.
    """
    from harness.store.objects import Store

    folder = environment.store_folder(args.store)
    if not make and not (folder / "STORE.json").is_file():
        raise StoreError(
            f"{folder}: there is no store. `bench run` makes one; or name another with --store"
        )
    return Store(folder)
