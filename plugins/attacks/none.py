"""No attack: the clean model that every victim is compared with."""

from __future__ import annotations

from torch import nn

from harness import Attack, Task


class NoAttack(Attack):
    """Train on clean data."""

    has_trigger = False

    def label_table(self, classes: int) -> list[int]:
        """Attack no class."""
        return [-1] * classes

    def trigger(self, task: Task) -> nn.Module | None:
        """Return None: there is no trigger."""
        return None
