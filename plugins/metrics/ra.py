"""Robust accuracy."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import ClassVar

from harness import Incompatible, Metric, Predictions


class RA(Metric):
    """RA: share of triggered test images that still get their true label, in percent."""

    needs: ClassVar[AbstractSet[str]] = frozenset({"predictions", "trigger"})
    higher_is_better = True

    def score(self, predictions: Predictions) -> float:
        """Score the images that ASR counts."""
        counted = predictions.attacked
        if predictions.triggered is None or not counted.any():
            raise Incompatible("no test image is attacked")
        correct = predictions.triggered == predictions.labels
        return 100 * float(correct[counted].mean())
