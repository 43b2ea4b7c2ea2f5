"""Metrics, which turn predictions, models and data into numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, ClassVar

from harness.access.predictions import Predictions
from harness.components.base import Component

if TYPE_CHECKING:
    from harness.access.granted import MetricAccess


class Metric(Component):
    """Base of all metrics: numbers from predictions, or from a model with data."""

    needs: ClassVar[AbstractSet[str]] = frozenset({"predictions"})
    """Within predictions, model, validation, test, training-set, trigger, result, reference."""
    unit: ClassVar[str] = "%"
    higher_is_better: ClassVar[bool | None] = None
    """None: neither, or it depends on the attack."""

    def score(self, predictions: Predictions) -> float | Mapping[str, float]:
        """Return one number, or several by name. For metrics that need no model."""
        raise NotImplementedError

    def measure(self, access: MetricAccess) -> float | Mapping[str, float]:
        """Return one number, or several by name. For metrics that need the model or data: a stage
        of its own.
        """
        raise NotImplementedError

    def combine(self, values: Sequence[float]) -> Mapping[str, float]:
        """Return what a table shows of a group of replicates. Default: mean, std (n-1), n, computed
        by the host.
        """
        raise NotImplementedError
