"""Work of a defense, in seconds."""

from __future__ import annotations

from harness import Metric, Predictions


class Time(Metric):
    """Time: seconds that the defense and its parts worked, without start-up and evaluation."""

    unit = "s"
    higher_is_better = False

    def score(self, predictions: Predictions) -> float:
        """Return wall-clock seconds; 0 where there is no defense."""
        return predictions.record["seconds"]
