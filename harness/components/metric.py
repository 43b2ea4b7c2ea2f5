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
    """Within predictions, model, validation, validation-unlabelled, test, test-unlabelled,
    training-set, poisoned, trigger, result, reference.

    A model is another plugin's code: what is granted beside it is in its process. A metric with
    `model` asks for no label, poisoned row or trigger that it can do without.
    """
    unit: ClassVar[str] = "%"
    higher_is_better: ClassVar[bool | None] = None
    """None: neither, or it depends on the attack."""

    def grants(self) -> AbstractSet[str]:
        """Return what this instance is granted, where parameters decide. Default: `needs`."""
        return self.needs

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
