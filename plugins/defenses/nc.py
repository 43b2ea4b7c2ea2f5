"""Neural Cleanse: a label that a far smaller trigger leads to than to the others has a backdoor.

Wang et al., S&P 2019. One trigger is inverted for each label; the outliers among their sizes, by
the median absolute deviation, and below the median only, are the targets. What is flagged is
unlearned: the model is fine-tuned on clean images of which some carry the trigger and keep their
labels. The released code ends with the verdict; unlearning follows the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
from pydantic import Field

from harness import Access, Context, Part, Result, Use, use
from plugins.parts.universal_triggers import Triggers
from plugins.parts.unlearning import Unlearning

CONSISTENCY = 1.4826
"""Makes the median absolute deviation of normal numbers their standard deviation."""
FEWEST = 8
"""Classes below which the median rule has too few others to compare with."""


class NC(Unlearning):
    """Flag labels with an unusually small inverted trigger, and unlearn these (Wang et al. 2019)."""

    citation = "Wang et al.: Neural Cleanse - Identifying and Mitigating Backdoor Attacks in Neural Networks, S&P 2019"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nc": {},
        "nc-class": {"triggers": {"name": "universal-triggers", "preset": "nc-class"}},
        # A toolbox's version: the cost is there from the start, and the even number of classes is
        # seen by its median.
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
    """what inverts a trigger for each label"""
    threshold: Annotated[float, Field(gt=0)] = 2.0
    """anomaly index above which a label is flagged"""
    median: Literal["mean", "lower"] = "mean"
    """of an even number of sizes: the mean of the middle two, as in the released code, or the lower
    of them
    """
    few: bool = False
    """judge tasks of fewer than 8 classes too, where the median says little"""

    def compatible(self, context: Context) -> str | None:
        """The median rule needs classes to compare with."""
        if context.task.classes < FEWEST and not self.few:
            return f"{context.task.classes} classes are too few for a median; at least {FEWEST}, or set few = true"
        return None

    def defend(self, access: Access) -> Result:
        """Judge the sizes, unlearn what stands out. Triggers that never met their bound are
        counted, not named.
        """
        triggers = cast(Triggers, access.part("triggers"))
        norms, working = triggers.norms, triggers.reached.tolist()
        index = anomaly(norms, self.median)
        by_size = sorted(
            (label for label, works in enumerate(working) if works), key=norms.__getitem__
        )
        named = [label for label in by_size if index[label] > self.threshold]
        model = self.mended(
            access, [triggers.stamp(n) for n in named], [triggers.stamp(n) for n in by_size[:1]]
        )
        return Result(
            model=model,
            flagged=bool(named),
            score=index[by_size[0]] if by_size else 0.0,
            targets=named,
            record={
                **{f"norm_{label}": norm for label, norm in enumerate(norms)},
                "failed": float(working.count(False)),
            },
        )


def anomaly(norms: Sequence[float], median: Literal["mean", "lower"] = "mean") -> list[float]:
    """For each label by how many deviations its norm is below the median (above: negative). All 0
    without a spread.
    """
    values = np.array(norms)
    centre = _median(values, median)
    spread = CONSISTENCY * _median(np.abs(values - centre), median)
    return (
        [float(index) for index in (centre - values) / spread] if spread > 0 else [0.0] * len(norms)
    )


def _median(values: np.ndarray, kind: str) -> float:
    return float(np.median(values) if kind == "mean" else np.sort(values)[(len(values) - 1) // 2])
