"""Metrics: what makes numbers of predictions, models and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.components.base import Component

if TYPE_CHECKING:
    import numpy as np

    from harness.access.granted import MetricAccess


@dataclass(frozen=True)
class Predictions:
    """A model's answers over the test set, as numpy arrays over its n images.

    `labels` true labels; `clean` predicted labels; `mapped` what triggered images should get (-1:
    not attacked); `triggered` predicted labels of triggered images, None without a trigger;
    `variants` the same for other named triggers; `logits` of the clean images (n, classes) in half
    precision; `record` numbers of the defense stage, with `seconds` it took and `images` it
    processed.
    """

    labels: np.ndarray
    clean: np.ndarray
    mapped: np.ndarray
    triggered: np.ndarray | None
    variants: Mapping[str, np.ndarray]
    logits: np.ndarray
    record: Mapping[str, float]

    @property
    def attacked(self) -> np.ndarray:
        """Boolean mask of the images that ASR and RA count: attacked, and not of the mapped label
        already.
        """
        mask: np.ndarray = (self.mapped >= 0) & (self.mapped != self.labels)
        return mask


class Metric(Component):
    """Turns predictions, or a model with data, into numbers."""

    needs: ClassVar[AbstractSet[str]] = frozenset({"predictions"})
    """Within predictions, model, validation, test, training-set, trigger, result, reference."""
    unit: ClassVar[str] = "%"
    higher_is_better: ClassVar[bool | None] = None
    """None: neither, or it depends on the attack."""

    def score(self, predictions: Predictions) -> float | Mapping[str, float]:
        """One number, or several by name. For metrics that need no model."""
        raise NotImplementedError

    def measure(self, access: MetricAccess) -> float | Mapping[str, float]:
        """For metrics that need the model or data: a stage of its own."""
        raise NotImplementedError

    def combine(self, values: Sequence[float]) -> Mapping[str, float]:
        """What a table shows of a group of replicates. Default: mean, std (n-1), n, computed by the
        host.
        """
        raise NotImplementedError
