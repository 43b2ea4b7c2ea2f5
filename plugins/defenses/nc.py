"""Neural Cleanse: a label that a far smaller trigger leads to than to the others has a backdoor.

Wang et al., S&P 2019. One trigger is inverted for each label; the outliers among their sizes, by
the median absolute deviation, and below the median only, are the targets. What is flagged is
unlearned: the model is fine-tuned on clean images of which some carry the trigger and keep their
labels. The released code ends with the verdict; unlearning follows the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import numpy as np

from harness import Access, Context, Part, Result, Use, use
from plugins.parts.ranges import Positive
from plugins.parts.universal_triggers import Triggers
from plugins.parts.unlearning import Unlearning

CONSISTENCY = 1.4826
"""Factor that makes the median absolute deviation of normal numbers their standard deviation."""
FEWEST = 8
"""Classes below which the median rule has too few others to compare with."""


class NC(Unlearning):
    """Flag labels with an unusually small inverted trigger, unlearn them (Wang et al. 2019)."""

    citation = (
        "Wang et al.: Neural Cleanse - Identifying and Mitigating Backdoor Attacks in Neural "
        "Networks, S&P 2019"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nc": {},
        "nc-class": {"triggers": {"name": "universal-triggers", "preset": "nc-class"}},
        # A toolbox's version: the cost is there from the start, and of an even number of sizes the
        # median is the lower of the middle two.
        "backdoorbench": {
            "triggers": {"name": "universal-triggers", "preset": "backdoorbench"},
            "median": "lower",
            "epochs": 100,
            "batch": 256,
            "stamped": 1.0,
            "append": True,
        },
        # Used there to harden models without a backdoor as well.
        "deck": {"unlearn": "always"},
    }

    triggers: Use[Part] = use("universal-triggers")
    """part that inverts a trigger for each label"""
    threshold: Positive = 2.0
    """anomaly index above which a label is flagged"""
    median: Literal["mean", "lower"] = "mean"
    """of an even number of sizes: the mean of the middle two, as in the released code, or the lower
    of them
    """
    few: bool = False
    """judge tasks of fewer than 8 classes too, where the median says little"""

    def compatible(self, context: Context) -> str | None:
        """Require classes enough for the median rule."""
        classes = context.task.classes
        if classes < FEWEST and not self.few:
            return (
                f"{classes} classes are too few for a median; at least {FEWEST}, or set few = true"
            )
        return super().compatible(context)

    def defend(self, access: Access) -> Result:
        """Judge the sizes, unlearn what stands out.

        Triggers that never met their bound are counted, not named.
        """
        triggers = cast(Triggers, access.part("triggers"))
        norms = triggers.norms
        reached = triggers.reached.tolist()
        index = anomaly(norms, self.median)

        working = [label for label in range(len(norms)) if reached[label]]
        by_size = sorted(working, key=norms.__getitem__)
        named = [label for label in by_size if index[label] > self.threshold]
        score = 0.0
        if by_size:
            score = index[by_size[0]]

        suspicious = [triggers.trigger(label) for label in named]
        likeliest = [triggers.trigger(label) for label in by_size[:1]]
        mended = self.mended(access, suspicious, likeliest)

        record = {f"norm_{label}": norm for label, norm in enumerate(norms)}
        record["failed"] = float(reached.count(False))
        return Result(model=mended, flagged=bool(named), score=score, targets=named, record=record)


def anomaly(norms: Sequence[float], median: Literal["mean", "lower"] = "mean") -> list[float]:
    """Return by how many deviations each label's norm is below the median (above: negative).

    All are 0 without a spread.
    """
    values = np.array(norms)
    centre = _median(values, median)
    deviations = np.abs(values - centre)
    spread = CONSISTENCY * _median(deviations, median)
    if spread > 0:
        return [float(index) for index in (centre - values) / spread]
    return [0.0] * len(norms)


def _median(values: np.ndarray, kind: str) -> float:
    if kind == "mean":
        return float(np.median(values))
    ascending = np.sort(values)
    return float(ascending[(len(values) - 1) // 2])
