"""The clean images that a defense gets: how many, and of which dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.components import DatasetFacts, DefenseFacts
from harness.errors import GridError, Problem
from harness.plan.defender import grant
from harness.plan.graph import Graph, Setting
from harness.plan.questions import grant_name
from harness.registry.resolved import Resolved
from harness.stages.artefacts import IMAGES
from harness.stages.splits import sizes
from harness.stages.stage import Input

if TYPE_CHECKING:
    from harness.grid import Entry, Place

ROLES = {"clean-labelled": "clean", "clean-unlabelled": "unlabelled"}
"""Words of `needs` that are images, and the folder in which the body finds them."""


def grants_of(
    graph: Graph, at: Setting, entry: Entry, defense: Resolved[DefenseFacts], seed: int
) -> dict[str, Input]:
    """Lay out the image grants of one defense: what its entry says, else the grid's `[defender]`,
    else the whole pool.

    Raises GridError at the line that grants more than there is, or what the defense does not take.
    """
    needed = [need for need in ROLES if need in defense.needs]
    problems: list[Problem] = []
    for name in entry.grant or {}:
        if name in needed or (name == "clean" and needed):
            continue
        takes = "it takes no images"
        if needed:
            takes = f"it takes {' and '.join(needed)} images"
        place = entry.at("grant", name)
        problems.append(place.problem(f"{entry.label} has no use for this grant", takes))
    grants = {}
    for need in needed:
        try:
            grants[need] = _grant(graph, at, entry, seed, need)
        except GridError as error:
            problems += error.problems
    if problems:
        raise GridError(problems)
    return grants


def _grant(graph: Graph, at: Setting, entry: Entry, seed: int, need: str) -> Input:
    value, place = _stated(graph, at, entry, need)
    amount = value["count"] if isinstance(value, Mapping) else value
    stock = _stock(graph, at, value, place)
    count = stock.count(amount)
    if not 0 < count <= stock.available:
        complaint, hint = stock.complaint(entry.label, amount)
        raise GridError(place.problem(complaint, hint))
    labelled = need == "clean-labelled"
    classes = stock.source.facts.classes
    if labelled and classes > at.task.classes:
        complaint = (
            f"{entry.label} needs labels of the {at.task.classes} classes of "
            f"{at.dataset.label!r}, but the images of {stock.called!r} are of {classes} classes"
        )
        hint = "grant images of a dataset with the same classes"
        raise GridError(place.problem(complaint, hint))
    stage = grant(graph, stock.source, stock.split, count, labelled, seed)
    return Input(ROLES[need], stage.key, IMAGES)


def _stated(graph: Graph, at: Setting, entry: Entry, need: str) -> tuple[Any, Place]:
    """Return the first of all values that grant something for `need`, and where it stands; None
    where nothing does.
    """
    grid = graph.binding.grid
    tables = (
        (entry.grant or {}, partial(entry.at, "grant")),
        (grid.defender, partial(grid.place, "defender")),
    )
    for table, place_of in tables:
        for name in (need, "clean"):
            if name in table:
                return table[name], place_of(name)
    return None, at.dataset.place


@dataclass(frozen=True)
class _Stock:
    """The source of a grant: a split with so many images. A share is one of `whole`.

    `called` is the dataset's label in the grid, or its name where it has no entry.
    """

    source: Resolved[DatasetFacts]
    called: str
    split: str
    available: int
    whole: int

    def count(self, amount: int | float | None) -> int:
        """Return a number of images: `amount` itself, that share of `whole`, or all."""
        if amount is None:
            return self.available
        if isinstance(amount, int):
            return amount
        return round(amount * self.whole)

    def complaint(self, who: str, amount: int | float | None) -> tuple[str, str]:
        """Say of an amount that is nothing, or more than there is, what is wrong and what would be
        right.
        """
        count = self.count(amount)
        if self.available and not count:
            share = f"{amount} of {self.whole} images is none, and {who} needs clean images"
            return share, "grant more"
        hints = []
        if self.split == "pool":
            place = "pool"
            hints.append(f"set pool = {max(count, 1)} or more in its [[dataset]]")
        else:
            place = "training set"
        if self.available:
            hints.append("grant less")
        number = f"{count} " if count else ""
        holds = f"the {place} of {self.called!r} holds {self.available or 'none'}"
        return f"{who} needs {number}clean images, but {holds}", ", or ".join(hints)


def _stock(graph: Graph, at: Setting, value: Any, place: Place) -> _Stock:
    """Return where a grant is taken from. Of another dataset, the training set serves where there
    is no pool.

    Raises GridError where the dataset cannot be split.
    """
    source = at.data
    called = at.dataset.label
    foreign = isinstance(value, Mapping)
    if foreign:
        stated = value["dataset"]
        source = graph.binding.grants[grant_name(stated)]
        called = stated if isinstance(stated, str) else source.name
    try:
        held = sizes(source.params, source.facts.train_count, source.facts.test_count)
    except ValueError as error:
        complaint = f"dataset {called!r}: {error}"
        raise GridError(place.problem(complaint, "take less, or hold less back")) from error
    if foreign and not held.pool:
        return _Stock(source, called, "train", held.train, held.training)
    return _Stock(source, called, "pool", held.pool, held.training)
