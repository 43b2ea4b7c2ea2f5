"""Skill of a defense at finding the poison in its training set."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import ClassVar

from harness import Incompatible, Metric, MetricAccess


class Isolation(Metric):
    """Isolation: precision and recall of the training images that a defense suspects, in percent.

    Precision is the share of the suspects that are poisoned, recall the share of the poisoned that
    are suspected; on a training set without poison there is no recall.
    """

    needs: ClassVar[AbstractSet[str]] = frozenset({"result", "poisoned"})
    higher_is_better = True

    def measure(self, access: MetricAccess) -> Mapping[str, float]:
        """Compare the suspects with the poisoned rows of the training set. Raise Incompatible where
        nothing is suspected.
        """
        result = access.result()
        if result is None:
            raise Incompatible("there is no defense to suspect")
        suspects = result["suspects"]
        if not suspects:
            raise Incompatible("the defense suspects no training image")
        poisoned = access.poisoned()
        hits = int(poisoned[suspects].sum())
        shares = {"precision": 100 * hits / len(suspects)}
        if poisoned.any():
            shares["recall"] = 100 * hits / int(poisoned.sum())
        return shares
