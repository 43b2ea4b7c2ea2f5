"""How many clean images a defense gets, and of which dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.binding import grant_name
from harness.errors import GridError
from harness.stages import Input
from harness.stages.data import Sizes, sizes

if TYPE_CHECKING:
    from harness.graph import Graph, Setting
    from harness.grid import Entry
    from harness.resolve import Resolved

ROLES = {"clean-labelled": "clean", "clean-unlabelled": "unlabelled"}
"""Words of `needs` that are images, and the folder in which the body finds them."""


def grants_of(graph: Graph, at: Setting, entry: Entry, defense: Resolved, seed: int) -> dict[str, Input]:
    """The image grants of one defense: what its entry says, else the grid's `[defender]`, else the whole pool.

    Raises GridError at the line that grants more than there is.
    """
    return {need: _grant(graph, at, entry, defense, seed, need) for need in ROLES if need in defense.needs}


def _grant(graph: Graph, at: Setting, entry: Entry, defense: Resolved, seed: int, need: str) -> Input:
    grid, own = graph.binding.grid, graph.binding.sizes(at.dataset)
    tables = ((entry.grant or {}, entry.at("grant")), (grid.defender, grid.place("defender")))
    said = ((table[name], place.below(name)) for table, place in tables for name in (need, "clean") if name in table)
    value, place = next(said, (None, at.dataset.place))
    source, split, available = at.data, "pool", own.pool
    if isinstance(value, Mapping):
        source, value = graph.binding.grants[grant_name(value["dataset"])], value["count"]
        held = sizes(source.params, source.facts["train_count"], source.facts["test_count"])
        split, available = ("pool", held.pool) if held.pool else ("train", held.train)
    count = _count(value, available, own, at.data.params["pool_in_train"])
    if not 0 < count <= available:
        raise GridError(
            place.problem(
                f"{defense.name} needs {count or 'some'} clean images, "
                f"but the {split} of {source.name!r} holds {available}",
                f"set pool = {max(count, 1)} or more in its [[dataset]], or grant less",
            )
        )
    stage = graph.grant(source, split, count, need == "clean-labelled", seed)
    return Input(ROLES[need], stage.key, ("images.safetensors",))


def _count(value: Any, available: int, own: Sizes, pool_in_train: bool) -> int:
    """A number of images; a share is one of the dataset's training images, those held back for the pool included."""
    if value is None:
        return available
    return value if isinstance(value, int) else round(value * (own.train + (0 if pool_in_train else own.pool)))
