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
    """count images that are of the wanted label already, as WaNet's, IAB's and I-BAU's own code
    does
    """

    def score(self, predictions: Predictions) -> float:
        """Over attacked images that are not of the wanted label already."""
        counted = predictions.mapped >= 0 if self.include_target else predictions.attacked
        if predictions.triggered is None or not counted.any():
            raise Incompatible("no test image is attacked")
        return 100 * float((predictions.triggered == predictions.mapped)[counted].mean())
