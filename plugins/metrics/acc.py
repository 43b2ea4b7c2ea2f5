"""Clean accuracy."""

from __future__ import annotations

from harness import Metric, Predictions


class Acc(Metric):
    """ACC: share of clean test images that are classified right, in percent."""

    higher_is_better = True

    def score(self, predictions: Predictions) -> float:
        """Over the whole test set, the target class included."""
        return 100 * float((predictions.clean == predictions.labels).mean())
