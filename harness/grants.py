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
    value, place = _said(graph, at, entry, need)
    source, split, held = at.data, "pool", graph.binding.sizes(at.dataset)
    if isinstance(value, Mapping):
        source, value = graph.binding.grants[grant_name(value["dataset"])], value["count"]
        try:
            held = sizes(source.params, source.facts["train_count"], source.facts["test_count"])
        except ValueError as error:
            raise GridError(place.problem(f"dataset {source.name!r}: {error}", "take less, or hold less back")) from error
        split = "pool" if held.pool else "train"
    available = held.pool if split == "pool" else held.train
    # A share is one of all that may be trained on, the images held back for the pool included.
    whole = held.train + (0 if source.params["pool_in_train"] else held.pool)
    count = available if value is None else value if isinstance(value, int) else round(value * whole)
    if not 0 < count <= available:
        wanted = f"{count or 'at least 1'} of {whole} images" if isinstance(value, float) else f"{count or 'some'} images"
        what = f"{entry.label} needs {wanted} for {need}, but the {split} of {source.name!r} holds {available}"
        if isinstance(value, float) and not count:
            what = f"{value} of the {whole} images of {source.name!r} is no image at all, and {entry.label} needs some"
        hint = "grant more" if 0 < available and not count else f"set pool = {max(count, 1)} or more in its [[dataset]]"
        raise GridError(place.problem(what, f"{hint}, or grant less" if count else hint))
    stage = graph.grant(source, split, count, need == "clean-labelled", seed)
    return Input(ROLES[need], stage.key, ("images.safetensors",))


