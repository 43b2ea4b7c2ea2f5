"""Pretrained: a network that somebody else defended, or fine-tuned, enters a grid as a defense.

The weights come from a file and the architecture is the suspect's, so that a released network is
judged like any other, and a released teacher can be distilled from
(`teacher = {name = "pretrained", ...}` of `nad`).
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import ClassVar

from torch import nn

from harness import Access, Context, Defense
from plugins.parts.weights import Weights


class PretrainedDefense(Weights, Defense):
    """Network that somebody else defended: weights from a file, in the victim's architecture.

    The host cannot know what its makers saw: trigger and test data, perhaps.
    """

    seeded = False
    needs: ClassVar[AbstractSet[str]] = frozenset({"victim"})

    def compatible(self, context: Context) -> str | None:
        """Refuse a dataset of as many classes as no layer of the file's network tells apart."""
        return self.misfit(context.task.classes)

    def defend(self, access: Access) -> nn.Module:
        """Return the victim's network with the file's weights. Raise ValueError, with the names,
        where they do not fit.
        """
        model = access.victim()
        self.load_into(model, access.task.classes)
        return model
