"""Class distance by a patch: MOTH's, the size of the mask that turns a class to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from harness import MetricAccess
from plugins.parts.pair_inversion import PairSettings, PatchSearch
from plugins.parts.pair_search import Pair, Pictures

MOTH: Mapping[str, Any] = {"backdoor": "moth", "epochs": 1000}
"""As the released code measures; its other settings are those of DECK, too."""
OF_PATCHES = frozenset({"batch", "bound", "alpha", "patience", "up", "settled", "stop", "at_once"})
"""Settings of the search for pervasive backdoors that the search for patches has as well."""


class PatchDistance:
    """See `PairSearches`. Distances are sizes of masks, summed over the channels."""

    numbers: Mapping[str, float] = {}

    def __init__(self, access: MetricAccess, model: nn.Module, settings: PairSettings) -> None:
        self.access = access
        self.model = model
        self.settings = settings

    def begin(self, pictures: Pictures, pairs: Sequence[Pair], stream: str) -> PatchSearch:
        """See `PairSearches`."""
        return PatchSearch(self.access, self.model, pictures, pairs, self.settings, stream)
