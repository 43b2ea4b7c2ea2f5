"""A model's answers to an attack's further triggers."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import ClassVar

from harness import Incompatible, Metric, Predictions


class Variants(Metric):
    """Variants: share of images under further triggers that get their true label, in percent.

    The further triggers are those that a backdoor should ignore: WaNet's noise mode, IAB's cross
    mode. One number for each trigger, by its name.
    """

    needs: ClassVar[AbstractSet[str]] = frozenset({"predictions", "trigger"})
    higher_is_better = True

    fooled: bool = False
    """count those that get the attacker's label instead, over the images that ASR counts"""

    def score(self, predictions: Predictions) -> Mapping[str, float]:
        """Score the whole test set, as the attacks' papers do; if `fooled`, its attacked images."""
        if not predictions.variants:
            raise Incompatible("the attack has no further trigger")
        if self.fooled and not predictions.attacked.any():
            raise Incompatible("no test image is attacked")
        shares: dict[str, float] = {}
        for name, answers in predictions.variants.items():
            if self.fooled:
                counted = (answers == predictions.mapped)[predictions.attacked]
            else:
                counted = answers == predictions.labels
            shares[name] = 100 * float(counted.mean())
        return shares
