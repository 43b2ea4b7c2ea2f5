"""Attack success rate."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import ClassVar

from harness import Incompatible, Metric, Predictions


class ASR(Metric):
    """ASR: share of triggered test images that get the label the attacker wants, in percent."""

    needs: ClassVar[AbstractSet[str]] = frozenset({"predictions", "trigger"})
    higher_is_better = False

    include_target: bool = False
    """count images that have the attacker's label already, as WaNet's, IAB's and I-BAU's own code
    does
    """

    def score(self, predictions: Predictions) -> float:
        """Score attacked images that do not have the attacker's label already."""
        counted = predictions.attacked
        if self.include_target:
            counted = predictions.mapped >= 0
        if predictions.triggered is None or not counted.any():
            raise Incompatible("no test image is attacked")
        fooled = predictions.triggered == predictions.mapped
        return 100 * float(fooled[counted].mean())
