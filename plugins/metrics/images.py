"""Work of a defense, in images."""

from __future__ import annotations

from harness import Metric, Predictions


class Images(Metric):
    """Images that the defense and its parts processed; a forward and backward pass counts one."""

    unit = ""
    higher_is_better = False

    def score(self, predictions: Predictions) -> float:
        """Return the recorded number; 0 where there is no defense."""
        return predictions.record["images"]
