"""Clean accuracy."""

from __future__ import annotations

from harness import Metric, Predictions


class Acc(Metric):
    """ACC: share of clean test images that are classified correctly, in percent."""

    higher_is_better = True

    def score(self, predictions: Predictions) -> float:
        """Score the whole test set, the target class included."""
        correct = predictions.clean == predictions.labels
        return 100 * float(correct.mean())
