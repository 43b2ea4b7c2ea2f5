"""How a network is trained, as settings: every field moves numbers, so every field is part of a
key.

No torch here: the plan and the command line read recipes too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Listed = Field(strict=False)  # JSON and TOML have lists where Python has tuples
Pair = Annotated[tuple[float, float], Listed]
Rates = Annotated[tuple[Pair, ...], Listed]
Schedule = Literal["constant", "step", "cosine", "one-cycle", "linear", "table", "piecewise"]

RISE = 0.3
"""Share of a one-cycle schedule in which the rate rises, unless `warmup` says otherwise."""
START, END = 1 / 25, 1 / 250_000
"""First and last rate of a one-cycle schedule as shares of its peak (Smith & Topin 2018, in torch's
proportions).
"""
CLOSE = 1e-9
"""Slack, in epochs, so that 0.3 of 100 epochs is epoch 30 and not the one after."""


class Recipe(BaseModel):
    """Optimiser, schedule, sampling, augmentation and precision of one training run.

    Lengths are in epochs unless said otherwise, augmentations in pixels of the image, `lr` is the
    highest rate of the schedule. Augmentation acts on [0,1] pixels, per sample; what it uncovers
    gets the colour `fill`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    epochs: Annotated[int, Field(ge=0)] = 100
    """passes over the data"""
    steps: Annotated[int, Field(ge=0)] | None = None
    """optimiser steps; overrides `epochs`, the last pass may be cut short"""
    batch: Annotated[int, Field(ge=1)] = 128
    """images a step"""

    optimizer: Literal["sgd", "adam", "adamw", "adadelta"] = "sgd"
    """adamw shrinks the weights (decoupled), the others add `weight_decay` to the gradient (L2)"""
    lr: Annotated[float, Field(ge=0)] = 0.1
    """learning rate that the schedule scales"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """of sgd"""
    nesterov: bool = False
    """of sgd"""
    betas: Pair = (0.9, 0.999)
    """of adam and adamw"""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """on all parameters, biases and normalisation included"""

    schedule: Schedule = "constant"
    """step: times `gamma` at each milestone; cosine and linear: down to 0; one-cycle: up to `lr`
    and down; table: the last rate of `rates` begun; piecewise: straight lines between the points of
    `rates`
    """
    milestones: Annotated[tuple[Fraction, ...], Listed] = (0.5, 0.75)
    """of step: shares of the horizon, ascending"""
    gamma: Annotated[float, Field(gt=0)] = 0.1
    """of step"""
    rates: Rates = ()
    """of table and piecewise: (epoch counted from 0, learning rate), ascending; `lr` is not used
    then
    """
    horizon: Annotated[float, Field(gt=0)] | None = None
    """epochs that the schedule spans; none: the length of the training"""
    warmup: Fraction | None = None
    """share of the horizon in which the rate rises; none: 0.3 for one-cycle, else 0"""
    update: Literal["auto", "epoch", "step"] = "auto"
    """when the rate moves; auto: every step for one-cycle and linear, else with every epoch (a
    warm-up is by step)
    """

    label_smoothing: Fraction = 0.0
    """share of the target spread evenly over all classes"""
    shuffle: bool = True
    """a new order in each epoch; false: dataset order"""
    drop_last: bool = False
    """leave out the smaller batch at the end of an epoch"""
    replacement: bool = False
    """draw images with replacement"""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """largest norm of the gradient over all parameters of the model"""

    crop: Annotated[int, Field(ge=0)] = 0
    """padding on each side before a random crop back to size"""
    crop_probability: Fraction = 1.0
    """that a batch is cropped"""
    flip: bool = False
    """mirror left and right with probability 0.5"""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """degrees: angles are uniform between minus and plus this"""
    rotation_probability: Fraction = 1.0
    """that a batch is rotated"""
    cutout: Annotated[int, Field(ge=0)] = 0
    """side of a square filled at a uniform centre, clipped at the border"""
    fill: Annotated[tuple[Fraction, ...], Listed] = (0.0,)
    """colour in [0,1] of uncovered pixels: one number, or one a channel; rounded to a multiple of
    1/255
    """

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """of forward and backward passes; auto: bf16 where the device is fast at it"""
    deterministic: bool | Literal["warn"] = False
    """refuse (or warn of) operations that may differ between repeats; CPU runs repeat bit for bit
    without it
    """

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must ascend, not {list(self.milestones)}")
        if (self.schedule in ("table", "piecewise")) != bool(self.rates):
            raise ValueError('rates goes with schedule = "table" or "piecewise", and they with it')
        starts = [epoch for epoch, _ in self.rates]
        if starts != sorted(set(starts)) or any(
            epoch < 0 or rate < 0 for epoch, rate in self.rates
        ):
            raise ValueError("rates must be pairs (epoch, lr), not negative, with ascending epochs")
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), not {list(self.betas)}")
        if len(self.fill) not in (1, 3):
            raise ValueError(
                f"fill is one number, or three for colour images, not {len(self.fill)}"
            )
        return self

    def replace(self, **fields: Any) -> Self:
        """The same recipe with some fields changed, validated. Raises pydantic.ValidationError."""
        return type(self).model_validate({**self.model_dump(), **fields})

    def steps_per_epoch(self, count: int) -> int:
        """Optimiser steps in a pass over `count` images. Raises ValueError where there is not one."""
        steps = count // self.batch if self.drop_last else math.ceil(count / self.batch)
        if steps == 0:
            raise ValueError(
                f"{count} images make no batch of {self.batch}" + " (drop_last)" * self.drop_last
            )
        return steps

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimiser steps in the whole run."""
        return self.epochs * steps_per_epoch if self.steps is None else self.steps

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of the optimiser step `step`, counted from 0."""
        span = self.horizon or self.total_steps(steps_per_epoch) / steps_per_epoch
        by_step = self.update == "step" or (
            self.update == "auto" and self.schedule in ("one-cycle", "linear")
        )
        epoch = step / steps_per_epoch if by_step else float(step // steps_per_epoch)
        if self.schedule in ("table", "piecewise"):
            rate = _SHAPES[self.schedule](self, epoch, span)
        elif self.schedule == "one-cycle":
            rate = self.lr * _one_cycle(self, epoch * steps_per_epoch, span * steps_per_epoch)
        else:
            rate = self.lr * _SHAPES[self.schedule](self, epoch, span)
        rising = (
            0.0 if self.schedule == "one-cycle" else (self.warmup or 0.0) * span * steps_per_epoch
        )
        return rate * min(1.0, (step + 1) / rising) if rising else rate


def _step(recipe: Recipe, epoch: float, span: float) -> float:
    passed = sum(epoch + CLOSE >= milestone * span for milestone in recipe.milestones)
    return float(recipe.gamma**passed)


def _cosine(recipe: Recipe, epoch: float, span: float) -> float:
    return (1 + math.cos(math.pi * min(1.0, epoch / span))) / 2


def _linear(recipe: Recipe, epoch: float, span: float) -> float:
    return max(0.0, 1 - epoch / span)


def _table(recipe: Recipe, epoch: float, span: float) -> float:
    begun = [rate for start, rate in recipe.rates if epoch + CLOSE >= start]
    return begun[-1] if begun else recipe.rates[0][1]


def _piecewise(recipe: Recipe, epoch: float, span: float) -> float:
    for (left, before), (right, after) in zip(recipe.rates, recipe.rates[1:], strict=False):
        if left <= epoch < right:
            return before + (after - before) * (epoch - left) / (right - left)
    return recipe.rates[0][1] if epoch < recipe.rates[0][0] else recipe.rates[-1][1]


def _one_cycle(recipe: Recipe, step: float, steps: float) -> float:
    """Half cosines from START to 1 and on to END, which the last step has."""
    top = (RISE if recipe.warmup is None else recipe.warmup) * steps - 1
    if step <= top:
        share, first, last = step / top if top > 0 else 1.0, START, 1.0
    else:
        share, first, last = (step - max(top, 0)) / max(steps - 1 - max(top, 0), CLOSE), 1.0, END
    return last + (first - last) * (1 + math.cos(math.pi * min(1.0, share))) / 2


_SHAPES: dict[str, Callable[[Recipe, float, float], float]] = {
    "constant": lambda recipe, epoch, span: 1.0,
    "step": _step,
    "cosine": _cosine,
    "linear": _linear,
    "table": _table,
    "piecewise": _piecewise,
}
