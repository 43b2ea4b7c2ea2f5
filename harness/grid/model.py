"""The contents of a grid file once it is read: entries, cells and tables. Structure only; no
component is looked up.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.grid.nodes import Node, Place, shown


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
        """Return the place of `keys` of this entry: the line of a sweep's value or a block's
        setting if that set them.
        """
        if keys and keys[0] in self.origins:
            origin = self.origins[str(keys[0])]
            return origin.at(*keys[1:])
        if self.node is None:
            return self.place.below(*keys)
        return self.node.at(*keys)

    def is_labelled(self, label: str) -> bool:
        """Return True if `label` is this entry's label, or its label before its sweep."""
        return label == self.base or label == self.label

    @cached_property
    def content(self) -> str:
        """Everything but place and seeds as text: equal for entries that mean the same work under
        the same label.
        """
        start = None if self.on is None else self.on.content
        parts = [
            self.kind,
            self.name,
            self.label,
            self.preset,
            start,
            self.params,
            self.training,
            self.grant,
            self.established,
        ]
        # str turns dates into text; they are reported as problems already.
        return json.dumps(parts, sort_keys=True, default=str)


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
        backwards = [self.defense]
        start = self.defense.on
        while start is not None:
            backwards.append(start)
            start = start.on
        return tuple(reversed(backwards))

    @property
    def name(self) -> str:
        """`cifar10/resnet18/badnets/ft/0.1`: labels, victim seed, defense seed."""
        parts = [entry.label for entry in self.entries]
        parts.append(f"{self.victim_seed}.{self.defense_seed}")
        return "/".join(parts)


@dataclass(frozen=True)
class Table:
    """The layout of results. Axes: the kinds, `<kind>.<parameter>` of sweeps, seed, victim-seed,
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
    and the metrics; `datasets` all of that kind, which grants may name.
    """

    path: Path
    title: str
    cells: tuple[Cell, ...]
    entries: tuple[Entry, ...]
    metrics: tuple[Entry, ...]
    datasets: tuple[Entry, ...]
    defender: Mapping[str, Any]
    training: Mapping[str, Any]
    tables: tuple[Table, ...]
    root: Node = field(repr=False)

    def place(self, *keys: str | int) -> Place:
        """Return the place of a key of the file, or of one that it extends."""
        return self.root.at(*keys)


def label_of(base: str, swept: Mapping[str, Any]) -> str:
    """Return `base`, or `base[delta=20, f=6]` with the values that sweeps set."""
    if not swept:
        return base
    settings = [f"{key}={text(value)}" for key, value in swept.items()]
    listed = ", ".join(settings)
    return f"{base}[{listed}]"


def labels_of(entries: Iterable[Entry]) -> list[str]:
    """Return every label of the entries, also those before their sweeps; each once, in order."""
    labels: dict[str, None] = {}
    for entry in entries:
        labels[entry.base] = None
        labels[entry.label] = None
    return list(labels)


def text(value: Any) -> str:
    """Return a swept value as a label shows it: as in TOML, but a string without its quotes."""
    if isinstance(value, str):
        return value
    return shown(value)
