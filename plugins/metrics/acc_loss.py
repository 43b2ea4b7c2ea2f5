"""Degradation of clean accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import ClassVar

from harness import Metric, MetricAccess
from plugins.metrics.acc import Acc


class AccLoss(Metric):
    """Points of clean accuracy lost against the network that the defense started from.

    Negative where the defense gained some. `acc` is the accuracy that is left. An undefended
    network has lost nothing to anybody: it has `acc` alone. For points of robustness that were
    lost, see `loss` of the metric `robustness`.
    """

    needs: ClassVar[AbstractSet[str]] = frozenset({"predictions", "reference"})
    higher_is_better: ClassVar[bool | None] = False

    def measure(self, access: MetricAccess) -> Mapping[str, float]:
        """Compare the whole test set, the target class included."""
        left = Acc().score(access.predictions())
        numbers = {"acc": left}
        reference = access.reference()
        if reference is not None:
            numbers[""] = float(reference["values"]["acc"]) - left
        return numbers
