"""Settings of moving classes apart, for all components that harden pairs of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from harness import Component, Context, Fraction
from plugins.parts.ranges import Count, Positive, Share


class HardeningSettings(Component):
    """Settings of the loop; defaults are those of MOTH's code for Keras."""

    steps: Count = 780
    """training steps in all, one for each class in the warm-up: two passes over CIFAR-10, as
    released, which suit 5 % of it too
    """
    batch: Count = 128
    """images a step"""
    of_pair: Count = 13
    """images of each class of the pair in a batch, as many as a plain batch of CIFAR-10 has; of a
    smaller class all
    """
    stamped: Share = 0.1
    """share of these that get a trigger, at least one of each class"""
    lr: Positive = 1e-3
    """learning rate of SGD"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """of SGD"""
    nesterov: bool = True
    """look ahead, of SGD"""
    bn: Literal["trained", "frozen"] = "trained"
    """BatchNorm while the network is trained: training mode, or evaluation mode, in which scales
    and shifts learn and averages stand still
    """

    period: Count = 3
    """steps that a pair is hardened for"""
    explore: Fraction = 0.3
    """probability that a pair is drawn at random"""
    ramp: Count = 1000
    """steps after the warm-up until pairs are chosen by the growth of their distance alone"""

    pgd_eps: Annotated[float, Field(ge=0, le=255)] = 0.0
    """train on adversarial images, which move by so many grey levels of 0..255, and stamp these:
    for networks that were trained so (`on = "at"`); 0: on images as they are
    """
    pgd_step: Positive = 2.0
    """how far a step of the adversary moves a pixel, in grey levels"""
    pgd_steps: Count = 7
    """steps of the adversary"""

    def compatible(self, context: Context) -> str | None:
        """Refuse a single class."""
        if context.task.classes < 2:
            return "a distance is between two classes, and there is one"
        return super().compatible(context)

    def unused(self) -> Mapping[str, str]:
        """Name the settings of an adversary that there is not."""
        unused = dict(super().unused())
        if self.pgd_eps == 0:
            unused["pgd_step"] = "pgd_eps = 0"
            unused["pgd_steps"] = "pgd_eps = 0"
        return unused
