"""From the path of a grid to its plan, compared with a store.

Modules that read grids and components are imported in functions: `bench status` without a grid must
be quick and needs the store only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from harness import environment, grid
from harness.errors import BenchError, GridError, Problem, StoreError
from harness.grid import Unsound

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


def load(
    path: Path, store: Path | None = None, select: str | None = None, *, make: bool = True
) -> Planned:
    """Read the grid at `path`, select its cells by the expression `select` if there is one,
    resolve, plan, and look into the store.

    The store is `store`, else $BENCH_STORE, else ./.bench; it is made unless `make` is False, once
    the grid is known to be sound. Raises GridError, NothingSelected, PluginError, StoreError.
    """
    from harness.plan.plan import build

    try:
        read, cells = selected(path, select)
    except Unsound as error:
        raise GridError(_all_problems(error, select)) from error
    asked = resolver()
    plan = build(read, cells, asked.registry, asked, asked.sources)
    opened = open_store(store, make=make)
    plan.refresh(opened)
    return Planned(plan, opened, asked)


def _all_problems(unsound: Unsound, expression: str | None) -> list[Problem]:
    """Return what is wrong with a grid, and with the components that it names all the same.

    Nothing more is said of a line that has a problem already, nor of what a wrong value leaves
    without a use.
    """
    from harness.introspect.problems import IDLE
    from harness.plan.binding import bind

    found = unsound.found
    problems = list(unsound.problems)
    if found is None:
        return problems
    cells = list(found.cells)
    try:
        if expression:
            cells = grid.select(cells, expression)
        asked = resolver()
        bind(found, cells, asked.registry, asked)
    except GridError as error:
        lines = {(problem.file, problem.line) for problem in problems}
        for problem in error.problems:
            if (problem.file, problem.line) not in lines and IDLE not in problem.description:
                problems.append(problem)
    except BenchError:  # a broken plugin, perhaps: it is told once the grid is sound
        pass
    return problems


def resolver() -> Resolver:
    """Discover the plugins, and return a resolver of their components."""
    from harness.registry.discovery import discover
    from harness.registry.memo import Memo
    from harness.registry.resolve import Resolver

    memo = Memo()
    return Resolver(discover(memo), memo=memo)


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


def open_store(option: Path | None, *, make: bool) -> Store:
    """Return the store in folder `option`, else $BENCH_STORE, else ./.bench. Raises StoreError
    where there is none to read and none may be made.
    """
    from harness.store.layout import STORE  # as above
    from harness.store.objects import Store

    folder = environment.store_folder(option)
    if not make and not (folder / STORE).is_file():
        raise StoreError(
            f"{folder}: there is no store. `bench run` makes one; or name another with --store"
        )
    return Store(folder)
