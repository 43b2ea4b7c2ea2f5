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

from harness import Fraction, PoisoningAttack, Task
from plugins.parts.ranges import Positive

RADIANS = 0.8
"""Angle of a pixel of the wrapped wave, whatever the width."""
SHARE = 0.2
"""Weight of the wrapped wave in the blend."""


class SIG(PoisoningAttack):
    """Wave over the image, with clean labels (Barni et al. 2019)."""

    citation = (
        "Barni, Kallas, Tondi: A New Backdoor Attack in CNNs by Training Set Corruption Without "
        "Label Poisoning"
    )
    clean_label = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "anp": {},
        "bcu": {},
        # 2 is the largest class: the paper takes the largest ones in turn.
        "bcu/gtsrb": {"delta": 60.0, "target": 2},
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
    f: Positive = 6.0
    """periods over the width, of sine; wrapped has 0.8 radians a pixel"""
    poison_rate: Fraction = 0.8
    """share of `rate_of` that is poisoned; 80 % of the target class in ANP and BCU"""
    rate_of: Literal["train", "eligible"] = "eligible"
    """the whole of which `poison_rate` is a share: the training set, or its eligible images"""
    eligible: Literal["all", "non-target", "target"] = "target"
    """images that may be poisoned; none changes its label"""

    def unused(self) -> Mapping[str, str]:
        """Name the periods, which only the sine has."""
        unused = dict(super().unused())
        if self.form == "wrapped":
            unused["f"] = 'form = "wrapped"'
        return unused

    def trigger(self, task: Task) -> nn.Module:
        """Return a row of grey levels; it follows from the width and the parameters."""
        if self.form == "wrapped":
            wave = wrapped(self.delta, task.width)
            return Wave(wave, 1 - SHARE, SHARE)
        wave = sine(self.delta, self.f, task.width)
        if self.quantise == "truncate":
            # A whole grey level plus s, with its fraction dropped, is that level plus floor(s).
            # Taken here, in double precision, it repeats the official pixels: where the sine should
            # be 0 it may be -1e-14, which costs a level.
            wave = wave.floor()
        return Wave(wave, 1.0, 1.0)


def sine(delta: float, f: float, width: int) -> Tensor:
    """Return the wave delta sin(2 pi c f / width) for the columns c: float64 (width,)."""
    levels: list[float] = []
    for column in range(width):
        angle = 2 * math.pi * column * f / width
        levels.append(delta * math.sin(angle))
    return torch.tensor(levels, dtype=torch.float64)


def wrapped(delta: float, width: int) -> Tensor:
    """Return the wave delta sin(0.8 c) in whole grey levels, modulo 256, for the columns c: float64
    (width,).
    """
    levels: list[int] = []
    for column in range(width):
        level = math.trunc(delta * math.sin(RADIANS * column))
        levels.append(level % 256)  # negative levels become bright, as in a byte
    return torch.tensor(levels, dtype=torch.float64)


class Wave(nn.Module):
    """x' = clip(keep x + share s), the same in every row and channel."""

    def __init__(self, levels: Tensor, keep: float, share: float) -> None:
        super().__init__()
        self.keep = keep
        signal = share * levels / 255
        self.register_buffer("signal", signal.float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Stamp images: [0,1] NCHW in and out."""
        waved = self.keep * images + self.get_buffer("signal")
        return waved.clamp(0, 1)
