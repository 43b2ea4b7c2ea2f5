"""How many clean images a defense gets, and of which dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.errors import GridError
from harness.plan.binding import grant_name
from harness.stages import Input
from harness.stages.data import sizes

if TYPE_CHECKING:
    from harness.grid import Entry, Place
    from harness.plan.graph import Graph, Setting
    from harness.registry.resolved import Resolved

ROLES = {"clean-labelled": "clean", "clean-unlabelled": "unlabelled"}
"""Words of `needs` that are images, and the folder in which the body finds them."""


def grants_of(
    graph: Graph, at: Setting, entry: Entry, defense: Resolved, seed: int
) -> dict[str, Input]:
    """The image grants of one defense: what its entry says, else the grid's `[defender]`, else the
    whole pool.

    Raises GridError at the line that grants more than there is, or what the defense does not take.
    """
    wanted = [need for need in ROLES if need in defense.needs]
    for name in entry.grant or {}:
        if name not in wanted and not (name == "clean" and wanted):
            takes = f"it takes {' and '.join(wanted)} images" if wanted else "it takes no images"
            raise GridError(
                entry.at("grant", name).problem(f"{entry.label} has no use for this grant", takes)
            )
    return {need: _grant(graph, at, entry, seed, need) for need in wanted}


@dataclass(frozen=True)
class _Stock:
    """Where grants are taken from: a split with so many images. A share is one of `whole`."""

    source: Resolved
    split: str
    available: int
    whole: int

    def count(self, amount: int | float | None) -> int:
        """A number of images: as it is, as a share, or all."""
        if amount is None:
            return self.available
        return amount if isinstance(amount, int) else round(amount * self.whole)

    def complaint(self, who: str, amount: int | float | None) -> tuple[str, str]:
        """What is wrong with an amount that is nothing, or more than there is, and what would be
        right.
        """
        count = self.count(amount)
        place = f"the {'pool' if self.split == 'pool' else 'training set'} of {self.source.name!r}"
        if self.available and not count:
            return (
                f"{amount} of {self.whole} images is none, and {who} needs clean images",
                "grant more",
            )
        holds = f"{place} holds {self.available or 'none'}"
        needs = f"{who} needs {f'{count} ' if count else ''}clean images"
        larger = (
            f"set pool = {max(count, 1)} or more in its [[dataset]]" if self.split == "pool" else ""
        )
        return f"{needs}, but {holds}", ", or ".join(
            filter(None, (larger, "grant less" if self.available else ""))
        )


def _grant(graph: Graph, at: Setting, entry: Entry, seed: int, need: str) -> Input:
    value, place = _said(graph, at, entry, need)
    amount = value["count"] if isinstance(value, Mapping) else value
    stock = _stock(graph, at, value, place)
    count = stock.count(amount)
    if not 0 < count <= stock.available:
        raise GridError(place.problem(*stock.complaint(entry.label, amount)))
    stage = graph.grant(stock.source, stock.split, count, need == "clean-labelled", seed)
    return Input(ROLES[need], stage.key, ("images.safetensors",))


def _said(graph: Graph, at: Setting, entry: Entry, need: str) -> tuple[Any, Place]:
    """The first of all that grant something for `need`, and where it stands; None where nothing
    does.
    """
    grid = graph.binding.grid
    tables = (
        (entry.grant or {}, partial(entry.at, "grant")),
        (grid.defender, partial(grid.place, "defender")),
    )
    said = (
        (table[name], find(name))
        for table, find in tables
        for name in (need, "clean")
        if name in table
    )
    return next(said, (None, at.dataset.place))


def _stock(graph: Graph, at: Setting, value: Any, place: Place) -> _Stock:
    """Of another dataset, its training set serves where it has no pool. Raises GridError where it
    cannot be split.
    """
    source, foreign = at.data, isinstance(value, Mapping)
    if foreign:
        source = graph.binding.grants[grant_name(value["dataset"])]
    try:
        held = sizes(source.params, source.facts["train_count"], source.facts["test_count"])
    except ValueError as error:
        raise GridError(
            place.problem(f"dataset {source.name!r}: {error}", "take less, or hold less back")
        ) from error
    if foreign and not held.pool:
        return _Stock(source, "train", held.train, held.training)
    return _Stock(source, "pool", held.pool, held.training)
