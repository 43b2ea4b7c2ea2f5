"""Points inside a network by the words of its anatomy, for grids that must not know its layers by
name.
"""

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
    """The submodule whose output is meant. Raises Incompatible where the network has too few of
    them.
    """
    found = re.fullmatch(r"(\w+)\[(-?\d+)\]", point)
    if found is None:
        return str(getattr(anatomy, point))
    names: tuple[str, ...] = getattr(anatomy, found[1])
    place = int(found[2])
    if not -len(names) <= place < len(names):
        raise Incompatible(f"{point} is no part of this network, which has {len(names)} {found[1]}")
    return names[place]
