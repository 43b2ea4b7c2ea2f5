"""The shares of training sets that attacks poisoned, beside what was asked for. Reads small JSON
files of the store and nothing else.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from harness.run import claims
from harness.stages.artefacts import TRUTH_FILE
from harness.store.objects import Damaged, Store

if TYPE_CHECKING:
    from harness.plan.cells import PlannedCell
    from harness.plan.plan import Plan


class Quotas:
    """What is known of the poisoned sets of a plan. Each is looked up once."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self.store = store
        self._rates: dict[str, float | None] = {}

    def poisoned(self, planned: PlannedCell) -> float | None:
        """Return the share of the training set poisoned before training; None if it is unknown."""
        key = self._stage(planned)
        return None if key is None else self._rate(key)

    def shortfall(self, planned: PlannedCell) -> str:
        """Say that fewer images were poisoned than the rate asks for; "" where it is not so."""
        poisoned = self.poisoned(planned)
        params = planned.components["attack"].params
        asked = params.get("poison_rate")
        if poisoned is None or asked is None or params.get("rate_of") != "train":
            return ""
        count = self.plan.graph.binding.sizes(planned.cell.dataset).train
        made = round(poisoned * count)
        if made >= int(asked * count + 0.5):
            return ""
        return (
            f"poisoned {made} of {count} images ({poisoned:.4g}), where poison_rate asks for "
            f"{asked:g}: no more are eligible"
        )

    def shortfalls(self) -> dict[str, str]:
        """Return what `shortfall` says, by the key of the stage that poisoned, where it says
        anything.
        """
        said = {}
        for planned in self.plan.cells:
            key = self._stage(planned)
            if key is not None and key not in said:
                text = self.shortfall(planned)
                if text:
                    said[key] = text
        return said

    def _stage(self, planned: PlannedCell) -> str | None:
        """Return the key of the stage that poisoned a cell's training set, if one did."""
        if planned.victim is None:
            return None
        for item in self.plan.graph.stages[planned.victim].inputs:
            if item.role == "poison":
                return item.key
        return None

    def _rate(self, key: str) -> float | None:
        if key not in self._rates:
            self._rates[key] = None
            manifest = self.plan.manifest(key)
            if manifest is not None and TRUTH_FILE in manifest.files:
                with suppress(Damaged, ValueError, TypeError, KeyError):
                    data = self.store.read(key, TRUTH_FILE, manifest)
                    self._rates[key] = float(claims.read(TRUTH_FILE, data)["rate"])
        return self._rates[key]
