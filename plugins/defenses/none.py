"""No defense: the victim as it is."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import ClassVar

from torch import nn

from harness import Access, Defense


class NoDefense(Defense):
    """Leave the victim as it is."""

    needs: ClassVar[AbstractSet[str]] = frozenset()
    seeded = False

    def defend(self, access: Access) -> nn.Module:
        """Never called: a defense that needs nothing is no stage, but another name for what it
        stands on.
        """
        return access.victim()
