"""Numbers that defenses record, as metrics."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import ClassVar

from harness import Incompatible, Metric, MetricAccess, suggest

VERDICT = ("flagged", "score")
"""Numbers of a verdict, which stand beside the record."""


class Record(Metric):
    """A number that the defense recorded, such as the channels that it pruned; "record:pruned"."""

    needs: ClassVar[AbstractSet[str]] = frozenset({"result"})
    unit = ""
    seeded = False

    number: str
    """its name in the record of the defense; `flagged` (1: backdoored) and `score` are its verdict
    """

    def measure(self, access: MetricAccess) -> float:
        """Return the number. Raises Incompatible where there is no defense, or where it recorded
        none of that name.
        """
        result = access.result()
        if result is None:
            raise Incompatible("there is no defense to record anything")
        numbers = dict(result["record"])
        for name in VERDICT:
            if result[name] is not None:
                numbers[name] = float(result[name])
        if self.number not in numbers:
            known = suggest(self.number, sorted(numbers))
            raise Incompatible(f"the defense recorded no {self.number!r}. {known}")
        return float(numbers[self.number])
