"""What a defense looks at."""

from __future__ import annotations

from harness import Metric, Predictions


class Images(Metric):
    """Images: how many the defense and its parts processed, a forward and backward pass counting
    one.
    """

    unit = ""
    higher_is_better = False

    def score(self, predictions: Predictions) -> float:
        """0 where there is no defense."""
        return predictions.record["images"]
