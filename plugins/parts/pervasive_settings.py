"""Settings of DECK's backdoor generation, for all components that generate such backdoors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from harness import Component, Fraction, NotInKey
from plugins.parts.inversion import Rule
from plugins.parts.ranges import Count, NotNegative, Odd, Positive, Share

POWER = 1.5
"""The lineage's code divides the weight by the power of what it multiplies it with."""

DECK: Mapping[str, Any] = {}
"""The paper's text, with our choices where it says nothing: these are the defaults."""
AUTHOR: Mapping[str, Any] = {
    "z": 1,
    "m": 3,
    "start": "drawn",
    "bias": True,
    "normalised": True,
    "dropout": 0.1,
    "kernel_rate": 0.01,
    "level_rate": 2.55,
}
"""The first author's later, public variant (InherentBackdoor): one kernel with a bias for the whole
map of normalised features, drawn at the start, and one learning rate on [0,1] pixels.
"""


class PervasiveSettings(Component):
    """Transformation, loss and optimiser of the pervasive backdoors that DECK generates.

    The paper leaves z, m, the start, the optimiser and its rates open.
    """

    z: Count = 4
    """regions of a feature map in each direction, with a kernel of its own each; 1: one kernel"""
    m: Odd = 3
    """side of the kernels, odd"""
    start: Literal["identity", "drawn"] = "identity"
    """kernels at the start: no change but for `spread`, with the means of the pictures' statistics;
    or Glorot's normal draws, with statistics drawn from 0 to white
    """
    spread: NotNegative = 1e-3
    """deviation of normal draws that are added to kernels that start as the identity"""
    bias: bool = False
    """a number added to each channel of a region, drawn N(0, 1) at the start"""
    normalised: bool = False
    """bring each channel of a feature map to mean 0 and deviation 1 before the transformation"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """share of channels that are dropped behind the transformation while it is optimised"""
    clip: Literal["hard", "straight", "none"] = "hard"
    """what keeps decoded pictures within 0..255: a cut that stops gradients where it cuts, one that
    they pass unchanged, or nothing
    """
    kernel_rate: Positive = 3e-4
    """learning rate of Adam for kernels and their bias"""
    level_rate: Positive = 1.0
    """the same for the mean and deviation of channels, in grey levels"""

    content: NotNegative = 1e-3
    """weight of the mean squared difference of features; this and the next three are the paper's"""
    ssim: NotNegative = 100.0
    """weight of 1 - SSIM"""
    smooth: NotNegative = 0.05
    """weight of the mean squared distance of pixels from their neighbourhood, in grey levels"""
    norm: NotNegative = 1.0
    """weight of how far mean and deviation of channels are from the pictures', in grey levels"""

    batch: Count = 32
    """pictures of a pair that go into one step of the optimiser; at most all"""
    bound: Share = 0.9
    """share of the pictures that must be turned for a backdoor to count"""
    alpha: Positive = 1e-3
    """first weight of the four terms beside the cross-entropy"""
    patience: Count = 10
    """successful, or failed, epochs in a row after which that weight moves"""
    up: Annotated[float, Field(gt=1)] = 1.5
    """what it is multiplied by; it is divided by up^1.5"""
    floor: NotNegative = 1e-5
    """the weight does not fall below this, where pictures would be destroyed"""
    settled: Fraction = 0.01
    """share by which the distance must fall for `stop` to begin anew"""
    stop: Count | None = None
    """epochs without such a fall, the weight having risen and fallen, after which a pair is done;
    none: all epochs are made
    """
    at_once: Annotated[int, Field(ge=1), NotInKey] = 96
    """pictures that go through the networks together, of as many pairs as that makes; moves
    rounding errors only
    """

    def weighing(self) -> Rule:
        """Return the rule by which the weight adapts."""
        return Rule(
            bound=self.bound,
            cost=self.alpha,
            start="cost",
            patience=self.patience,
            up=self.up,
            down=self.up**POWER,
            slack=1 - self.settled,
            stop=self.stop,
        )
