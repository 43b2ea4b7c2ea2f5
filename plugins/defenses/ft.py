"""Fine-tuning: go on training the victim, with the defender's clean images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from harness import Access
from plugins.parts.fine_tuning import NAD_CUTOUT, NAD_RATES, FineTuning

NAD_LONG_CUTOUT = 8
"""NAD's paper names a length of 9, of which the slice in its code would blank 8 by 8 pixels."""
NAD: Mapping[str, Any] = {
    "epochs": 10,
    "batch": 64,
    "nesterov": True,
    "weight_decay": 1e-4,
    "schedule": "table",
    "rates": NAD_RATES,
    "cutout": NAD_CUTOUT,
}
"""NAD's code, with all betas 0; its read-me and paper fine-tune for 5 to 10 epochs, the code's
default is 20.
"""


class FT(FineTuning):
    """Fine-tune all layers on clean images (the baseline of BCU, ANP and DECK).

    Presets: `anp` and `anp-high` are ANP's two columns, which name a learning rate alone. DECK took
    NAD's baseline, which `deck` runs as NAD's code does. The table in NAD's read-me was made
    without Cutout.
    """

    citation = "as in Pang et al.: Backdoor Cleansing with Unlabeled Data, CVPR 2023"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "bcu": {},
        "anp": {"lr": 0.01},
        "anp-high": {"lr": 0.02},
        "nad": NAD,
        "nad-code": {**NAD, "epochs": 20},
        "nad-paper": {**NAD, "cutout": NAD_LONG_CUTOUT},
        "nad-table": {**NAD, "cutout": 0},
        "deck": {**NAD, "epochs": 20},
    }

    def defend(self, access: Access) -> nn.Module:
        """Train all layers on; BatchNorm statistics move."""
        model = access.victim()
        data = access.clean()
        access.fit(model, data, self.tuning(access))
        return model
