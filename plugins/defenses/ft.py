"""Fine-tuning: train the victim on with the defender's clean images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from harness.access import Access
from plugins.parts.fine_tuning import NAD_CUTOUT, NAD_RATES, FineTuning


class FT(FineTuning):
    """Fine-tune all layers on clean images (the baseline of BCU, ANP and DECK)."""

    citation = "as in Pang et al.: Backdoor Cleansing with Unlabeled Data, CVPR 2023"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "bcu": {},
        "anp": {"lr": 0.01},
        "anp-high": {"lr": 0.02},
        "nad": {
            "epochs": 10,
            "batch": 64,
            "nesterov": True,
            "weight_decay": 1e-4,
            "schedule": "table",
            "rates": NAD_RATES,
            "cutout": NAD_CUTOUT,
        },
    }

    def defend(self, access: Access) -> nn.Module:
        """All layers learn, BatchNorm statistics move."""
        model = access.victim()
        access.fit(model, access.clean(), self.tuning(access))
        return model
