"""No defense: the victim as it is."""

from __future__ import annotations

from torch import nn

from harness import Access, Defense


class NoDefense(Defense):
    """Leave the victim as it is."""

    needs = frozenset()
    seeded = False

    def defend(self, access: Access) -> nn.Module:
        """Return the victim. The host never calls this: `none` is no stage of its own."""
        return access.victim()
