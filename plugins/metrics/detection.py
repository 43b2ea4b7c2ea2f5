"""Verdicts of scanners, counted over sets of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import ClassVar

from harness import Context, Incompatible, Metric, MetricAccess


class Rate(Metric):
    """The share of models that a defense calls backdoored. In a single cell it is 0 or 100."""

    needs: ClassVar[AbstractSet[str]] = frozenset({"result"})

    def measure(self, access: MetricAccess) -> float:
        """Return 100 where the verdict is that there is a backdoor, else 0."""
        return 100.0 * self.flagged(access)

    def flagged(self, access: MetricAccess) -> bool:
        """Return the verdict. Raise Incompatible where there is none."""
        result = access.result()
        if result is None:
            raise Incompatible("there is no defense to give a verdict")
        verdict = result["flagged"]
        if verdict is None:
            raise Incompatible("the defense gives no verdict")
        return bool(verdict)

    def combine(self, values: Sequence[float]) -> Mapping[str, float]:
        """Return the share over a set of models; a deviation of verdicts would say no more."""
        share = sum(values) / len(values)
        return {"mean": share, "n": float(len(values))}


class TPR(Rate):
    """TPR: share of backdoored models that a defense calls backdoored, in percent."""

    needs: ClassVar[AbstractSet[str]] = frozenset({"result", "trigger"})
    higher_is_better = True

    name_target: bool = False
    """count only verdicts that name a target, the label of attacked images of another class, among
    the suspected labels
    """

    def flagged(self, access: MetricAccess) -> bool:
        """Return the verdict; with `name_target`, only if it is right about a target too."""
        verdict = super().flagged(access)
        if not verdict or not self.name_target:
            return verdict
        result = access.result()
        assert result is not None
        label_table = access.trigger().label_table
        targets = set()
        for label, mapped in enumerate(label_table):
            # a class that keeps its label under the trigger makes no target of it
            if mapped >= 0 and mapped != label:
                targets.add(mapped)
        suspected = set(result["targets"])
        return not targets.isdisjoint(suspected)


class FPR(Rate):
    """FPR: share of models without a backdoor that a defense calls backdoored, in percent."""

    higher_is_better = False

    def compatible(self, context: Context) -> str | None:
        """Refuse backdoored models: only others can be called backdoored wrongly."""
        if context.attack is not None and context.attack.facts.has_trigger:
            return f"attack {context.attack.name!r} leaves a backdoor"
        return None
