"""Changes that a method may make in the training loop: to batches, loss and optimisers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from torch import Tensor, nn

from harness.learn.recipes import RecipeFields


@dataclass
class Batch:
    """One step's data.

    `images`: [0,1] floats (b, c, h, w) on the device; `labels`: int64 (b,) on the device, None for
    unlabelled data; `indices`: int64 (b,), places in the training set, on the CPU so that reading
    them never waits for the device; `epoch` and `step` are counted from 0, `step` over the whole
    run.
    """

    images: Tensor
    labels: Tensor | None
    indices: Tensor
    epoch: int
    step: int


@dataclass(frozen=True)
class Extra:
    """Parameters trained along with the model by an optimiser of their own: a generator, a
    perturbation.

    `recipe` holds the fields in which optimiser and schedule differ from the model's.
    `zero_grad=False` never clears the gradients: each step sees their running sum, as published
    code of input-aware attacks does.
    """

    parameters: Iterable[nn.Parameter]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    zero_grad: bool = True


@dataclass(frozen=True)
class Hooks:
    """A method's changes to the loop. Hooks return new batches (`dataclasses.replace`); they may
    train.

    `before_augment` and `after_augment` see every batch in fp32, with gradients flowing from what
    they compute into the loss; a hook that changes the number of images gets `indices` of its own
    making. `loss(model, batch)` returns a scalar and runs under the run's precision. `mode(model)`
    is called after `model.train()` at the start of each epoch: put frozen parts into evaluation
    mode there. `after_step(batch)` follows the optimisers (gradients are still there),
    `after_epoch(epoch)` each epoch.
    """

    before_augment: Callable[[Batch], Batch] | None = None
    after_augment: Callable[[Batch], Batch] | None = None
    loss: Callable[[nn.Module, Batch], Tensor] | None = None
    extra: Sequence[Extra] = ()
    mode: Callable[[nn.Module], None] | None = None
    after_step: Callable[[Batch], None] | None = None
    after_epoch: Callable[[int], None] | None = None


class HookSettings(TypedDict, total=False):
    """The fields of `Hooks` by name, as `access.fit` takes them."""

    before_augment: Callable[[Batch], Batch] | None
    after_augment: Callable[[Batch], Batch] | None
    loss: Callable[[nn.Module, Batch], Tensor] | None
    extra: Sequence[Extra]
    mode: Callable[[nn.Module], None] | None
    after_step: Callable[[Batch], None] | None
    after_epoch: Callable[[int], None] | None


class FitSettings(HookSettings, RecipeFields, total=False):
    """The settings of `access.fit`: hooks, single fields that replace those of the recipe, and
    what hooks hold from step to step, by name.
    """

    keep: Mapping[str, object]
