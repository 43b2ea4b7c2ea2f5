"""How often scanners are right, over sets of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import ClassVar

from harness import Context, Incompatible, Metric, MetricAccess


class Rate(Metric):
    """The share of models that a defense calls backdoored. In a single cell it is 0 or 100."""

    needs: ClassVar[AbstractSet[str]] = frozenset({"result"})

    def measure(self, access: MetricAccess) -> float:
        """100 where the verdict is that there is a backdoor."""
        return 100.0 * self.flagged(access)

    def flagged(self, access: MetricAccess) -> bool:
        """The verdict. Raises Incompatible where there is none."""
        result = access.result()
        if result is None or result["flagged"] is None:
            raise Incompatible(
                "the defense gives no verdict"
                if result
                else "there is no defense to give a verdict"
            )
        return bool(result["flagged"])

    def combine(self, values: Sequence[float]) -> Mapping[str, float]:
        """The share over a set of models; a standard deviation of verdicts would say no more."""
        return {"mean": sum(values) / len(values), "n": float(len(values))}


class TPR(Rate):
    """TPR: share of backdoored models that a defense calls backdoored, in percent."""

    needs: ClassVar[AbstractSet[str]] = frozenset({"result", "trigger"})
    higher_is_better = True

    name_target: bool = False
    """count only verdicts that name the target of an attacked class among the suspected labels"""

    def flagged(self, access: MetricAccess) -> bool:
        """The verdict, and where asked for, whether it is right about the target."""
        right = super().flagged(access)
        if right and self.name_target:
            result = access.result()
            assert result is not None
            right = bool(
                {label for label in access.trigger().label_table if label >= 0}
                & set(result["targets"])
            )
        return right


class FPR(Rate):
    """FPR: share of models without a backdoor that a defense calls backdoored, in percent."""

    higher_is_better = False

    def compatible(self, context: Context) -> str | None:
        """Only models without a backdoor can be called backdoored wrongly."""
        if context.attack is not None and context.attack.facts.get("has_trigger"):
            return f"attack {context.attack.name!r} leaves a backdoor"
        return None
