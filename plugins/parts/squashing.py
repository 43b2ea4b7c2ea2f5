"""Numbers without bounds as pixels or opacities in (0, 1), by a tanh, to optimise triggers by."""

from __future__ import annotations

import torch
from torch import Tensor

SLACK = 1e-7
"""Keeps 0 and 1 within reach and the way back finite; the value of the code of Neural Cleanse and
all that follow.
"""


def squash(free: Tensor, slack: float = SLACK) -> Tensor:
    """Return tanh(free) / (2 - slack) + 1/2; with a negative slack 0 and 1 are out of reach."""
    return torch.tanh(free) / (2 - slack) + 0.5


def unsquash(pixels: Tensor) -> Tensor:
    """Return the free numbers of pixels in [0, 1]."""
    return torch.atanh((pixels - 0.5) * (2 - SLACK))
