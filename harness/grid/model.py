"""What a grid file means once it is read: entries, cells and tables. Structure only; no component
is looked up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.grid.nodes import Node, Place, shown

KINDS = ("dataset", "model", "attack", "defense", "metric")
CELL_KINDS = KINDS[:4]

RESERVED: Mapping[str, tuple[str, ...]] = {
    "name": KINDS,
    "as": KINDS,
    "preset": KINDS,
    "sweep": KINDS,
    "seeds": CELL_KINDS,
    "training": ("dataset", "model", "attack"),
    "grant": ("defense",),
    "on": ("defense",),
    "established": ("attack",),
}
"""Keys of an entry that are not parameters, and the kinds that have them."""


@dataclass(frozen=True)
class Seeds:
    """(victim seed, defense seed) of each replicate; non-negative, no pair twice."""

    pairs: tuple[tuple[int, int], ...] = ((0, 0),)


@dataclass(frozen=True, eq=False)
class Entry:
    """One `[[dataset]]`, `[[model]]`, `[[attack]]`, `[[defense]]` or `[[metric]]`, or one value of
    its sweeps.

    `params` has every parameter that the grid sets, swept ones included. `swept` has those that a
    sweep set, in order; for a defense on a swept defense it begins with "on", that defense's label,
    which is no parameter.
    """

    kind: str
    name: str
    base: str
    swept: Mapping[str, Any]
    label: str
    preset: str | None
    params: Mapping[str, Any]
    training: Mapping[str, Any]
    grant: Mapping[str, Any] | None
    on: Entry | None
    established: Mapping[str, float]
    seeds: Seeds | None
    place: Place
    node: Node | None = field(default=None, repr=False)
    origins: Mapping[str, Node] = field(default_factory=dict, repr=False)

    def at(self, *keys: str | int) -> Place:
        """Where `keys` of this entry stand: the line of a sweep's value or a block's setting if
        that set them.
        """
        if keys and keys[0] in self.origins:
            return self.origins[str(keys[0])].at(*keys[1:])
        return self.node.at(*keys) if self.node else self.place.below(*keys)

    @cached_property
    def content(self) -> str:
        """Everything but place and seeds as text: equal for entries that mean the same work under
        the same label.
        """
        names = [self.kind, self.name, self.label, self.preset, self.on and self.on.content]
        tables = [self.params, self.training, self.grant, self.established]
        return json.dumps(
            [*names, *tables], sort_keys=True, default=str
        )  # str: dates, which are problems already


@dataclass(frozen=True)
class Cell:
    """One combination that the grid asks for."""

    dataset: Entry
    model: Entry
    attack: Entry
    defense: Entry
    victim_seed: int
    defense_seed: int

    @property
    def entries(self) -> tuple[Entry, Entry, Entry, Entry]:
        """Dataset, model, attack, defense."""
        return self.dataset, self.model, self.attack, self.defense

    @property
    def chain(self) -> tuple[Entry, ...]:
        """The defenses from the first one, which starts from the victim, to this cell's own."""
        chain = [self.defense]
        while chain[-1].on is not None:
            chain.append(chain[-1].on)
        return tuple(reversed(chain))

    @property
    def name(self) -> str:
        """`cifar10/resnet18/badnets/ft/0.1`: labels, victim seed, defense seed."""
        return "/".join(
            [*(entry.label for entry in self.entries), f"{self.victim_seed}.{self.defense_seed}"]
        )


@dataclass(frozen=True)
class Table:
    """How results are laid out. Axes: the kinds, `<kind>.<parameter>` of sweeps, seed, victim-seed,
    defense-seed.

    `metrics` has the labels of the metrics to show. `average` adds the average over the rows.
    `reference` is an existing file with published numbers.
    """

    title: str | None
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    over: tuple[str, ...]
    average: bool
    reference: Path | None
    metrics: tuple[str, ...]
    place: Place


@dataclass(frozen=True)
class Grid:
    """A grid file, read. `entries` has every entry that a cell uses, also those only named by `on`,
    and the metrics.
    """

    path: Path
    title: str
    cells: tuple[Cell, ...]
    entries: tuple[Entry, ...]
    metrics: tuple[Entry, ...]
    defender: Mapping[str, Any]
    training: Mapping[str, Any]
    training_place: Place
    tables: tuple[Table, ...]
    root: Node = field(repr=False)

    def place(self, *keys: str | int) -> Place:
        """Where a key of the file (or of one that it extends) stands."""
        return self.root.at(*keys)


def label_of(base: str, swept: Mapping[str, Any]) -> str:
    """`base`, or `base[delta=20, f=6]` with what sweeps set."""
    return (
        f"{base}[{', '.join(f'{key}={text(value)}' for key, value in swept.items())}]"
        if swept
        else base
    )


def text(value: Any) -> str:
    """A swept value in a label: as in TOML, but a string without its quotes."""
    return value if isinstance(value, str) else shown(value)
