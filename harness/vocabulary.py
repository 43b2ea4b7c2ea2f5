"""The words that several rooms share, each said once. This module imports nothing of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

KINDS = ("attack", "defense", "model", "dataset", "metric", "part")
"""The kinds of component, in the order in which they are listed."""

ENTRY_KINDS = ("dataset", "model", "attack", "defense", "metric")
"""The kinds that a grid has entries of. A part is always another component's parameter."""

CELL_KINDS = ENTRY_KINDS[:4]
"""The kinds of the entries that a cell is made of, in the order of its name."""

RESERVED: Mapping[str, tuple[str, ...]] = {
    "name": ENTRY_KINDS,
    "as": ENTRY_KINDS,
    "preset": ENTRY_KINDS,
    "sweep": ENTRY_KINDS,
    "seeds": CELL_KINDS,
    "training": ("dataset", "model", "attack"),
    "grant": ("defense",),
    "on": ("defense",),
    "established": ("attack",),
}
"""Keys of a grid entry that are not parameters, and the kinds of entry that have them."""

STAND_IN = "stand-in"
"""The mark of rows that rest on a part which was trained in place of published weights."""

KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""The form of a component's or a recipe's name."""

PROJECT = "bench"
"""The name of the pluggy project that the hooks belong to."""

PLUGINS = "bench.plugins"
"""The entry-point group of modules that implement `bench_register`."""

OBSERVERS = "bench.observers"
"""The entry-point group of modules that implement the life-cycle hooks."""
