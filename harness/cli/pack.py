"""`bench pack`: what a store holds of a grid, in one file for somebody else."""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import harness
from harness.cli import planning
from harness.cli.limits import NO_ROOM
from harness.cli.sizes import counted, size
from harness.cli.streams import OutputLost
from harness.errors import StoreError
from harness.outcomes import Outcome
from harness.plan.plan import Plan
from harness.stages.artefacts import ARRAYS_FILE, MODEL_FILE, TRIGGER_FILE
from harness.store import packs
from harness.store.objects import Store
from harness.store.packs import PackError

WEIGHTS = (MODEL_FILE, TRIGGER_FILE)


def run(args: argparse.Namespace) -> int:
    """Write the pack. Exit code 0 where all is in it that a run of the grid asks for, 1 where
    something is missing.
    """
    plan, store, _ = planning.load(args, make=False)
    keys = usable(plan, store)
    if not keys:
        raise StoreError(
            f"{store.root}: holds no result of {args.grid}. `bench run {args.grid}` makes them"
        )
    notes = _incompatible(plan, store)
    holds, choose = _choice(args)
    about = {
        "title": plan.grid.title,
        "holds": holds,
        "cells": [cell.cell.name for cell in plan.cells],
        "made by": f"bench {harness.__version__}",
    }
    files = _grid_files(args.grid)
    try:
        packed = packs.pack(
            args.output, store, keys, choose, about=about, grid=files, incompatible=notes
        )
    except OSError as error:
        place = error.filename or args.output
        if error.errno in NO_ROOM:
            raise OutputLost(f"{place}: {error.strerror}") from error
        raise PackError(
            f"{place}: {error.strerror}. -o names a file in a folder that can be written"
        ) from error
    there = {*packed.keys, *notes}
    whole = sum(1 for cell in plan.cells if there.issuperset(cell.stages))
    print(
        f"{args.output}: {whole} of {counted(len(plan.cells), 'cell')}, "
        f"{counted(len(packed.keys), 'object')}, {size(packed.size)}; {holds}"
    )
    if whole == len(plan.cells) and not packed.damaged:
        return 0
    print(
        "bench: the rest is not in the store, or not whole: `bench plan` says what", file=sys.stderr
    )
    return 1


def usable(plan: Plan, store: Store) -> list[str]:
    """Return the keys of those stages of a plan whose objects are there and not stale."""
    held = store.held(plan.stages)
    stale: set[str] = set()
    keys = []
    for key, stage in plan.stages.items():
        manifest = store.manifest(key) if key in held else None
        if manifest is None:
            continue
        if store.outdated(manifest) or stale.intersection(item.key for item in stage.inputs):
            stale.add(key)
        else:
            keys.append(key)
    return keys


def _incompatible(plan: Plan, store: Store) -> dict[str, Mapping[str, Any]]:
    """Return the notes of stages that turned out to make no sense, by key."""
    notes: dict[str, Mapping[str, Any]] = {}
    for key, outcome in plan.outcome.items():
        note = store.failure(key) if outcome is Outcome.INCOMPATIBLE else None
        if note is not None:
            told = ("kind", "title", "message")
            notes[key] = {name: note[name] for name in told if name in note}
    return notes


def _choice(args: argparse.Namespace) -> tuple[str, Callable[[str], bool]]:
    """Return what the pack holds, in words, and the choice of files by name."""
    if args.all:
        return "everything", lambda name: True
    if args.weights:
        return (
            "results, weights and triggers, no images",
            lambda name: _is_result(name) or name in WEIGHTS,
        )
    return "results, no weights and no images", _is_result


def _is_result(name: str) -> bool:
    return name.endswith(".json") or name == ARRAYS_FILE


def _grid_files(path: Path) -> dict[str, Path]:
    """Return the grid's file and those that it extends, by their names below the folder that holds
    all of them.
    """
    files = []
    current: Path | None = path
    while current is not None:
        files.append(Path(os.path.normpath(current.absolute())))
        extends = tomllib.loads(current.read_text("utf-8-sig")).get("extends")
        current = current.parent / extends if extends else None
    top = Path(os.path.commonpath([file.parent for file in files]))
    return {file.relative_to(top).as_posix(): file for file in files}
