"""Class distance by a pervasive backdoor, DECK's or a filter: what it moves in feature space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from harness import MetricAccess
from plugins.parts.codec import Codec
from plugins.parts.pair_search import Pair, Pictures
from plugins.parts.pervasive_backdoors import Backdoor, Pervasive, Toned
from plugins.parts.pervasive_search import Lot, Search
from plugins.parts.pervasive_settings import PervasiveSettings

OF_KERNELS = ("z", "m", "spread", "bias", "normalised", "dropout", "kernel_rate")
"""Settings of what happens to features."""


class PervasiveDistance:
    """See `PairSearches`. Distances are 0.001 times mean squared differences of features."""

    def __init__(
        self,
        access: MetricAccess,
        model: nn.Module,
        codec: Codec,
        settings: PervasiveSettings,
        kind: Literal["deck", "filter"],
    ) -> None:
        self.access = access
        self.model = model
        self.codec = codec
        self.settings = settings
        self.kind = kind

    @property
    def numbers(self) -> dict[str, float]:
        """See `PairSearches`."""
        return {
            "decoder_psnr": float(self.codec.psnr),
            "decoder_ssim": float(self.codec.ssim),
        }

    def begin(self, pictures: Pictures, pairs: Sequence[Pair], stream: str) -> Search:
        """See `PairSearches`."""
        lot = Lot.of(pictures.images, self.codec.encoder, self.settings.at_once)
        rows = [(pictures.classes.index(source), target) for source, target in pairs]
        backdoor = self._backdoor(lot)
        return Search(
            self.access, self.model, self.codec, self.settings, backdoor, lot, rows, stream
        )

    def _backdoor(self, lot: Lot) -> Backdoor:
        if self.kind == "filter":
            return Toned(self.settings)
        height, width = lot.features.shape[-2:]
        return Pervasive(self.settings, self.codec, (height, width))
