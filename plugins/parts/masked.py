"""A pattern that covers an image where a mask says so: the trigger of patch attacks."""

from __future__ import annotations

from torch import Tensor, nn


class Masked(nn.Module):
    """x' = x (1 - alpha m) + alpha m p.

    `mask` and `pattern` are in [0,1], (1 or channels, height, width); `alpha` is the opacity.
    """

    def __init__(self, mask: Tensor, pattern: Tensor, alpha: float) -> None:
        super().__init__()
        self.register_buffer("weight", alpha * mask)
        self.register_buffer("light", alpha * mask * pattern)

    def forward(self, images: Tensor) -> Tensor:
        """[0,1] NCHW in and out."""
        weight, light = self.get_buffer("weight"), self.get_buffer("light")
        return images * (1 - weight) + light
