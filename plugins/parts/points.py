"""Points inside a network by the words of its anatomy, so that grids need no names of layers."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from harness import Anatomy, Incompatible

PATTERN = r"^(?:stem|features|(?:stages|blocks)\[-?\d+\])$"
Point = Annotated[str, Field(pattern=PATTERN)]
"""`stem`, `features`, or one of `stages` and `blocks`: `stages[1]` is the second, `blocks[-1]` the
last.
"""


def locate(anatomy: Anatomy, point: str) -> str:
    """Return the name of the submodule whose output is the point.

    Raises Incompatible where the network has too few of them.
    """
    indexed = re.fullmatch(r"(\w+)\[(-?\d+)\]", point)
    if indexed is None:
        return str(getattr(anatomy, point))
    kind = indexed[1]
    place = int(indexed[2])
    names: tuple[str, ...] = getattr(anatomy, kind)
    if not -len(names) <= place < len(names):
        raise Incompatible(f"{point} is no part of this network, which has {len(names)} {kind}")
    return names[place]
