"""SIG: a wave over the image, with clean labels: only images of the target class carry it in
training.

Two triggers share the name. Barni et al. add a sine of 6 periods over the width. The code of ABL,
which NAD, Trap and Replace and DECK's authors took over, blends with a stored mask of another sine,
whose negative values wrapped round to bright ones: nearly a square wave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness import PoisoningAttack, Task

RADIANS = 0.8
"""A pixel of the wrapped wave, whatever the width."""
SHARE = 0.2
"""Weight of the wrapped wave in the blend."""


class SIG(PoisoningAttack):
    """Wave over the image, with clean labels (Barni et al. 2019)."""

    citation = "Barni, Kallas, Tondi: A New Backdoor Attack in CNNs by Training Set Corruption Without Label Poisoning"
    clean_label = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "anp": {},
        "bcu": {},
        "bcu/gtsrb": {
            "delta": 60.0,
            "target": 2,
        },  # the largest class: the paper takes the largest ones in turn
        "trap": {"form": "wrapped", "poison_rate": 1.0, "order": "first"},
        "trap/gtsrb": {"target": 1},
        "deck": {
            "form": "wrapped",
            "poison_rate": 0.08,
            "rate_of": "train",
            "when": "after-augment",
            "quantise": "none",
        },
        # There 8 % of the set is more than the target class has: all of it.
        "deck/svhn": {"poison_rate": 1.0, "rate_of": "eligible"},
        "deck-text": {
            "form": "wrapped",
            "poison_rate": 0.08,
            "when": "after-augment",
            "quantise": "none",
        },
    }

    form: Literal["sine", "wrapped"] = "sine"
    """added sine (Barni, BCU), or 0.8 of the image and 0.2 of a sine wrapped modulo 256 (ABL, NAD,
    Trap and Replace)
    """
    delta: Annotated[float, Field(gt=0, le=255)] = 20.0
    """amplitude in grey levels of 0..255; BCU and DECK: 20, BCU on GTSRB: 60"""
    f: Annotated[float, Field(gt=0)] = 6.0
    """periods over the width, of sine; wrapped has 0.8 radians a pixel"""
    poison_rate: Annotated[float, Field(ge=0, le=1)] = 0.8
    """share of `rate_of` that is poisoned; 80 % of the target class in ANP and BCU"""
    rate_of: Literal["train", "eligible"] = "eligible"
    """what `poison_rate` is a share of: the training set, or its eligible images"""
    eligible: Literal["all", "non-target", "target"] = "target"
    """which images may be poisoned; none changes its label"""

    def trigger(self, task: Task) -> nn.Module:
        """A row of grey levels; it follows from the width and the parameters."""
        if self.form == "wrapped":
            return Wave(wrapped(self.delta, task.width), 1 - SHARE, SHARE)
        wave = sine(self.delta, self.f, task.width)
        # A whole grey level plus s, with its fraction dropped, is that level plus floor(s). Taken
        # here, in double precision, it repeats the official pixels: where the sine should be 0 it
        # may be -1e-14, which costs a level.
        return Wave(wave.floor() if self.quantise == "truncate" else wave, 1.0, 1.0)


def sine(delta: float, f: float, width: int) -> Tensor:
    """The wave delta sin(2 pi c f / width) for the columns c: float64 (width,)."""
    return torch.tensor(
        [delta * math.sin(2 * math.pi * column * f / width) for column in range(width)],
        dtype=torch.float64,
    )


def wrapped(delta: float, width: int) -> Tensor:
    """The wave delta sin(0.8 c) in whole grey levels, modulo 256, for the columns c: float64
    (width,).
    """
    return torch.tensor(
        [math.trunc(delta * math.sin(RADIANS * column)) % 256 for column in range(width)],
        dtype=torch.float64,
    )


class Wave(nn.Module):
    """x' = clip(keep x + share s), the same in every row and channel."""

    def __init__(self, levels: Tensor, keep: float, share: float) -> None:
        super().__init__()
        self.keep = keep
        self.register_buffer("signal", (share * levels / 255).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """[0,1] NCHW in and out."""
        return (self.keep * images + self.get_buffer("signal")).clamp(0, 1)
