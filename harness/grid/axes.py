"""The axes of a grid: those along which its cells differ, and those that a table may name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.grid.model import Cell, Entry, text
from harness.grid.nodes import Node
from harness.vocabulary import CELL_KINDS, ENTRY_KINDS, RESERVED

SEED_AXES = ("seed", "victim-seed", "defense-seed")
"""`seed` is both others together."""


def unnamed(
    named: set[str], cells: Sequence[Cell], metrics: Sequence[Entry]
) -> dict[str, list[str]]:
    """Return the axes, with their values, that have several values but are not among `named`."""
    varying: dict[str, list[str]] = {}
    for kind in ENTRY_KINDS:
        if kind in named:
            continue
        entries = list(metrics) if kind == "metric" else entries_of(cells, kind)
        bases = _distinct([entry.base for entry in entries])
        if len(bases) > 1:
            varying[kind] = bases
            continue
        for parameter, values in _swept_values(entries).items():
            axis = f"{kind}.{parameter}"
            if len(values) > 1 and axis not in named:
                varying[axis] = values
    if "seed" in named:
        return varying
    seeds = seed_values(cells)
    missing = [axis for axis in seeds if axis not in named]
    if len(missing) == 2:
        varying["seed"] = _distinct([f"{cell.victim_seed}.{cell.defense_seed}" for cell in cells])
        return varying
    for axis in missing:
        varying[axis] = seeds[axis]
    return varying


def _swept_values(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Return the values, "unset" included, of each parameter that some of the entries sweep."""
    parameters: dict[str, None] = {}
    for entry in entries:
        parameters.update(dict.fromkeys(entry.swept))
    swept = {}
    for parameter in parameters:
        values = []
        for entry in entries:
            if parameter in entry.swept:
                values.append(text(entry.swept[parameter]))
            else:
                values.append("unset")
        swept[parameter] = _distinct(values)
    return swept


def seed_values(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """Return the values of `victim-seed` and `defense-seed`, each only if it has several."""
    values = {
        "victim-seed": _distinct([str(cell.victim_seed) for cell in cells]),
        "defense-seed": _distinct([str(cell.defense_seed) for cell in cells]),
    }
    return {axis: seeds for axis, seeds in values.items() if len(seeds) > 1}


def entries_of(cells: Sequence[Cell], kind: str) -> list[Entry]:
    """Return the entries of one kind that the cells have, each once."""
    entries: dict[Entry, None] = {}
    for cell in cells:
        entries[getattr(cell, kind)] = None
    return list(entries)


def parameters(root: Node, cells: Sequence[Cell], metrics: Sequence[Entry]) -> list[str]:
    """Return `<kind>.<parameter>` for all parameters that the grid sets or sweeps anywhere.

    Those only set count too: a small version of a grid may set what its parent sweeps and keep the
    parent's tables.
    """
    axes: dict[str, None] = {}

    def add(kind: str, keys: Iterable[str]) -> None:
        for key in keys:
            axes[f"{kind}.{key}"] = None

    used: dict[Entry, None] = {}
    for cell in cells:
        used.update(dict.fromkeys(cell.entries))
    for entry in (*used, *metrics):
        add(entry.kind, entry.swept)
    for kind in ENTRY_KINDS:
        for node in root.items_of(kind):
            keys = [*node.table, *node.table_of("sweep")]
            add(kind, [key for key in keys if key not in RESERVED])
        if kind not in CELL_KINDS:
            continue
        for block in root.items_of("block"):
            for way in ("set", "sweep"):
                add(kind, _block_keys(block, way, kind))
    return list(axes)


def _block_keys(block: Node, way: str, kind: str) -> dict[str, Node]:
    axes = block.table.get(way)
    if axes is None:
        return {}
    return axes.table_of(kind)


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
