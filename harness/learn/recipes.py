"""The training of a network as settings: every field moves numbers, so every field is part of a
key.

No torch here: the plan and the command line read recipes too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal, Self, TypedDict, Unpack

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Listed = Field(strict=False)  # JSON and TOML have lists where Python has tuples
Pair = Annotated[tuple[float, float], Listed]
Rates = Annotated[tuple[Pair, ...], Listed]
Optimizer = Literal["sgd", "adam", "adamw", "adadelta"]
Update = Literal["auto", "epoch", "step"]
AskedPrecision = Literal["auto", "fp32", "bf16"]
Schedule = Literal["constant", "step", "cosine", "one-cycle", "linear", "table", "piecewise"]

RISE = 0.3
"""Share of a one-cycle schedule in which the rate rises, unless `warmup` says otherwise."""
START, END = 1 / 25, 1 / 250_000
"""First and last rate of a one-cycle schedule as shares of its peak (Smith & Topin 2018, in torch's
proportions).
"""
CLOSE = 1e-9
"""Slack, in epochs, so that 0.3 of 100 epochs is epoch 30 and not the one after."""


class RecipeFields(TypedDict, total=False):
    """The fields of `Recipe`, some of them, for calls that replace single ones."""

    epochs: int
    steps: int | None
    batch: int
    optimizer: Optimizer
    lr: float
    momentum: float
    nesterov: bool
    betas: tuple[float, float]
    weight_decay: float
    schedule: Schedule
    milestones: tuple[float, ...]
    gamma: float
    rates: tuple[tuple[float, float], ...]
    horizon: float | None
    warmup: float | None
    update: Update
    label_smoothing: float
    shuffle: bool
    drop_last: bool
    replacement: bool
    clip_norm: float | None
    crop: int
    crop_probability: float
    flip: bool
    rotation: float
    rotation_probability: float
    cutout: int
    fill: tuple[float, ...]
    precision: AskedPrecision
    deterministic: bool | Literal["warn"]


class Numerics(TypedDict):
    """The fields of `Recipe` that say how computations are made, and not which."""

    precision: AskedPrecision
    deterministic: bool | Literal["warn"]


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

    optimizer: Optimizer = "sgd"
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
    update: Update = "auto"
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
    """colour in [0,1] of uncovered pixels: one number, or one for each channel; rounded to a
    multiple of 1/255
    """

    precision: AskedPrecision = "auto"
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
        ascending = starts == sorted(set(starts))
        negative = any(epoch < 0 or rate < 0 for epoch, rate in self.rates)
        if negative or not ascending:
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

    def unused(self) -> dict[str, str]:
        """Return the fields that do nothing beside the others, each with the reason."""
        unused: dict[str, str] = {}
        for names, acts, reason in self._conditions():
            if not acts:
                unused.update(dict.fromkeys(names, reason))
        return unused

    def _conditions(self) -> list[tuple[tuple[str, ...], bool, str]]:
        """Return names of fields, whether they act, and what they do not go with."""
        schedule = f'schedule = "{self.schedule}"'
        optimizer = f'optimizer = "{self.optimizer}"'
        in_table = self.schedule in ("table", "piecewise")
        spans = self.schedule not in ("constant", "table", "piecewise") or bool(self.warmup)
        uncovers = bool(self.crop or self.rotation or self.cutout)
        return [
            (("lr",), not in_table, f"{schedule} has its learning rates in `rates`"),
            (("milestones", "gamma"), self.schedule == "step", schedule),
            (("horizon",), spans, f"{schedule} spans no epochs"),
            (("update",), self.schedule != "constant", schedule),
            (("momentum", "nesterov"), self.optimizer == "sgd", optimizer),
            (("betas",), self.optimizer in ("adam", "adamw"), optimizer),
            (("epochs",), self.steps is None, "steps overrides it"),
            (("crop_probability",), self.crop > 0, "crop = 0"),
            (("rotation_probability",), self.rotation > 0, "rotation = 0"),
            (("fill",), uncovers, "no crop, rotation or cutout uncovers pixels"),
        ]

    def replace(self, **fields: Unpack[RecipeFields]) -> Self:
        """Return the recipe with some fields changed. Raises pydantic.ValidationError."""
        return type(self).model_validate({**self.model_dump(), **fields})

    def steps_per_epoch(self, count: int) -> int:
        """Return the optimiser steps in a pass over `count` images. Raises ValueError where there
        is not one.
        """
        if self.drop_last:
            steps = count // self.batch
            reason = " (drop_last)"
        else:
            steps = math.ceil(count / self.batch)
            reason = ""
        if steps == 0:
            raise ValueError(f"{count} images make no batch of {self.batch}{reason}")
        return steps

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the optimiser steps in the whole run."""
        if self.steps is not None:
            return self.steps
        return self.epochs * steps_per_epoch

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of the optimiser step `step`, counted from 0."""
        span = self.horizon or self.total_steps(steps_per_epoch) / steps_per_epoch
        if self._moves_by_step():
            epoch = step / steps_per_epoch
        else:
            epoch = float(step // steps_per_epoch)
        if self.schedule == "one-cycle":  # has a rise of its own
            return self.lr * _one_cycle(self, epoch * steps_per_epoch, span * steps_per_epoch)
        rate = _SHAPES[self.schedule](self, epoch, span)
        if self.schedule not in ("table", "piecewise"):
            rate = self.lr * rate
        rising = (self.warmup or 0.0) * span * steps_per_epoch
        if not rising:
            return rate
        return rate * min(1.0, (step + 1) / rising)

    def _moves_by_step(self) -> bool:
        if self.update == "auto":
            return self.schedule in ("one-cycle", "linear")
        return self.update == "step"


# Each takes the epochs passed and the span of the schedule in epochs, and returns a factor of `lr`
# or, for `table` and `piecewise`, the rate itself.


def _constant(recipe: Recipe, epoch: float, span: float) -> float:
    return 1.0


def _step(recipe: Recipe, epoch: float, span: float) -> float:
    passed = sum(epoch + CLOSE >= milestone * span for milestone in recipe.milestones)
    return float(recipe.gamma**passed)


def _cosine(recipe: Recipe, epoch: float, span: float) -> float:
    return (1 + math.cos(math.pi * min(1.0, epoch / span))) / 2


def _linear(recipe: Recipe, epoch: float, span: float) -> float:
    return max(0.0, 1 - epoch / span)


def _table(recipe: Recipe, epoch: float, span: float) -> float:
    _, rate = recipe.rates[0]
    for start, following in recipe.rates:
        if epoch + CLOSE >= start:
            rate = following
    return rate


def _piecewise(recipe: Recipe, epoch: float, span: float) -> float:
    for (left, before), (right, after) in zip(recipe.rates, recipe.rates[1:], strict=False):
        if left <= epoch < right:
            return before + (after - before) * (epoch - left) / (right - left)
    first_start, first_rate = recipe.rates[0]
    if epoch < first_start:
        return first_rate
    _, last_rate = recipe.rates[-1]
    return last_rate


def _one_cycle(recipe: Recipe, step: float, steps: float) -> float:
    """Follow half cosines from START to 1 and on to END, which the last step has."""
    rise = RISE if recipe.warmup is None else recipe.warmup
    top = rise * steps - 1
    if step <= top:
        share = step / top if top > 0 else 1.0
        first = START
        last = 1.0
    else:
        top = max(top, 0)
        share = (step - top) / max(steps - 1 - top, CLOSE)
        first = 1.0
        last = END
    return last + (first - last) * (1 + math.cos(math.pi * min(1.0, share))) / 2


_SHAPES: dict[str, Callable[[Recipe, float, float], float]] = {
    "constant": _constant,
    "step": _step,
    "cosine": _cosine,
    "linear": _linear,
    "table": _table,
    "piecewise": _piecewise,
}
