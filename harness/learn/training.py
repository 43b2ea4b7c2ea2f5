"""The one training loop. What methods add to it, they add through `Hooks`.

Data rests on the device as uint8; an epoch asks the device for nothing (one number at its end, to
see that the loss is finite), and no evaluation happens inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.learn.augmentation import Moves, Resident, move, send
from harness.learn.device import (
    Precision,
    global_random,
    kernels,
    probe_precision,
    sent,
    single_precision,
)
from harness.learn.images import Device, ImageSet, to_float
from harness.learn.optimiser import Optimiser
from harness.learn.recipes import Recipe
from harness.learn.stepping import Compiled, CUDARecorder, Recorder, Replayed, choose, recordable

REPORT_EVERY = 50
"""Steps between two calls of `progress` within an epoch."""

Generators = Callable[[str], torch.Generator]
"""Gives the CPU generator of a named stream."""


_Plan = list[tuple[Tensor, Tensor, Moves]]


class Diverged(RuntimeError):
    """The loss stopped being a finite number."""


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
    """What a method changes in the loop. Hooks return new batches (`dataclasses.replace`); they may
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


@dataclass(frozen=True)
class History:
    """What a run did: mean loss of each epoch, images processed, optimiser steps, precision used.

    `stepping` says how most steps were carried out (see `harness.learn.stepping`), and why not
    otherwise where another way was tried.
    """

    losses: tuple[float, ...]
    images: int
    steps: int
    precision: Precision
    stepping: str


def fit(
    model: nn.Module,
    data: ImageSet,
    recipe: Recipe,
    *,
    generator: Generators,
    hooks: Hooks | None = None,
    device: Device = "cpu",
    deadline: Callable[[], None] | None = None,
    progress: Callable[[int, int, float | None], None] | None = None,
    count: Callable[[int], None] | None = None,
    stepping: str = "auto",
    recorder: Callable[[torch.device], Recorder] = CUDARecorder,
) -> History:
    """Train `model` in place on `data`; afterwards it is on `device`, in evaluation mode.

    Only parameters that require gradients are trained. `generator` is asked for the streams
    "order", "augment" and "noise" (dropout and whatever else draws from torch's global generators,
    which are left as found), once each. `deadline` is called at every step and raises when time is
    up; `progress(steps done, steps in all, mean loss of the epoch or None)` now and then;
    `count(images)` after each epoch. `stepping` ("auto", "eager", "graph", "compiled") is how steps
    are carried out, and `recorder` what records them: neither moves results beyond rounding.

    Raises Diverged when the mean loss of an epoch is not finite, ValueError where data, recipe and
    hooks do not fit.
    """
    place = torch.device(device)
    run = _Run(model, data, recipe, hooks or Hooks(), generator, place)
    run.replay(stepping, recorder)
    seed = int(torch.randint(2**62, (), generator=generator("noise")))
    with (
        global_random(seed, device),
        kernels(recipe.deterministic),
        single_precision(),
        torch.enable_grad(),
    ):
        try:
            for epoch in range(run.epochs):
                loss, images = run.epoch(epoch, deadline, progress)
                if count is not None:
                    count(images)
                run.end(epoch, loss, images)
                if progress is not None:
                    progress(run.step, run.steps, loss)
            return History(tuple(run.losses), run.images, run.step, run.precision, run.stepping())
        finally:
            model.eval()
            run.close()


class _Run:
    """The state of one call of `fit`."""

    def __init__(
        self,
        model: nn.Module,
        data: ImageSet,
        recipe: Recipe,
        hooks: Hooks,
        generator: Generators,
        device: torch.device,
    ) -> None:
        if hooks.loss is None and data.labels is None:
            raise ValueError(
                "the data has no labels: cross-entropy needs them, or give a loss hook"
            )
        self.model, self.recipe, self.hooks, self.device = model, recipe, hooks, device
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        data = data.to(device)
        self.count, self.labels = len(data), data.labels
        self.resident = Resident(data.images, recipe)
        self.steps_per_epoch = recipe.steps_per_epoch(len(data))
        self.steps = recipe.total_steps(self.steps_per_epoch)
        self.epochs = math.ceil(self.steps / self.steps_per_epoch)
        self.precision = probe_precision(recipe.precision, device)
        self.order, self.moves = generator("order"), generator("augment")
        self.loss = hooks.loss or self._cross_entropy
        self.optimisers = self._optimisers()
        self.step, self.images = 0, 0
        self.losses: list[float] = []
        self.forward: nn.Module | Compiled = model
        self.replayed: Replayed | None = None
        self.plan: _Plan | None = None

    def replay(self, asked: str, recorder: Callable[[torch.device], Recorder]) -> None:
        """Have steps recorded, if that is asked for or pays, and if nothing in a step belongs to a
        method.
        """
        chosen = choose(asked, self.device, self.steps, bool(self.recipe.deterministic))
        hooks = self.hooks
        inside = (hooks.loss, hooks.mode, hooks.after_step, hooks.after_epoch)
        if chosen == "eager" or any(inside) or hooks.extra or not recordable(self.model):
            return
        if chosen == "compiled":
            self.forward = Compiled(self.model)
        work = partial(self._descend, self.forward)
        self.replayed = Replayed(
            partial(self._descend, self.model), work, self.model, recorder(self.device)
        )

    def close(self) -> None:
        """Let go of what the device holds for the run: it refers to itself, and the garbage
        collector may be late.

        Gradients go, too: those of recorded steps lie in memory of the recording.
        """
        for optimiser in self.optimisers:
            optimiser.torch.zero_grad(set_to_none=True)
        del self.loss, self.replayed

    def stepping(self) -> str:
        """How steps were carried out, for the manifest."""
        if self.replayed is None or not self.replayed.recorded:
            problem = None if self.replayed is None else self.replayed.problem
            return "eager" if problem is None else f"eager ({problem})"
        if isinstance(self.forward, Compiled):
            return "compiled" if self.forward.problem is None else f"graph ({self.forward.problem})"
        return "graph"

    def _optimisers(self) -> list[Optimiser]:
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        extra = self.hooks.extra
        if not trainable and not extra:
            raise ValueError(
                f"nothing to train: no parameter of {type(self.model).__name__} requires a gradient"
            )
        own = [Optimiser(trainable, self.recipe)] if trainable else []
        return own + [
            Optimiser(one.parameters, self.recipe.replace(**one.recipe), one.zero_grad)
            for one in extra
        ]

    def _cross_entropy(self, model: nn.Module, batch: Batch) -> Tensor:
        if batch.labels is None:
            raise ValueError("a hook returned a batch without labels, which cross-entropy needs")
        logits = model(batch.images).float()
        return functional.cross_entropy(
            logits, batch.labels, label_smoothing=self.recipe.label_smoothing
        )

    def _indices(self) -> Tensor:
        """The order of the coming epoch, on the CPU."""
        if self.recipe.replacement:
            return torch.randint(self.count, (self.count,), generator=self.order)
        return (
            torch.randperm(self.count, generator=self.order)
            if self.recipe.shuffle
            else torch.arange(self.count)
        )

    def epoch(
        self,
        epoch: int,
        deadline: Callable[[], None] | None,
        progress: Callable[[int, int, float | None], None] | None,
    ) -> tuple[float, int]:
        """Train for one epoch, or what is left of the run; the mean loss and the number of images."""
        self.model.train()
        if self.hooks.mode is not None:
            self.hooks.mode(self.model)
        plan = self.plan or self._drawn()
        total, images = torch.zeros((), device=self.device), 0
        for batch_here, batch_there, batch_moves in plan:
            if deadline is not None:
                deadline()
            batch = self._batch(batch_here, batch_there, batch_moves, epoch)
            total += self._train(batch) * len(batch.images)
            images += len(batch.images)
            self.step += 1
            if progress is not None and self.step % REPORT_EVERY == 0:
                progress(self.step, self.steps, None)
        # drawn now, while the device is still busy with this epoch
        self.plan = self._drawn() if self.step < self.steps else None
        return float(total) / images, images

    def _drawn(self) -> _Plan:
        """The coming epoch's batches, or of what is left of the run: places here and on the device,
        and moves there.
        """
        steps = min(self.steps_per_epoch, self.steps - self.step)
        here = torch.split(self._indices(), self.recipe.batch)[:steps]
        drawn = [self.resident.draw(len(chosen), self.moves) for chosen in here]
        there = torch.split(sent(torch.cat(here), self.device), self.recipe.batch)
        return list(zip(here, there, send(drawn, self.device), strict=True))

    def _batch(self, here: Tensor, there: Tensor, moves: Moves, epoch: int) -> Batch:
        labels = None if self.labels is None else self.labels[there]
        before, after = self.hooks.before_augment, self.hooks.after_augment
        if before is None:
            batch = Batch(self.resident.take(there, moves), labels, here, epoch, self.step)
        else:
            batch = before(
                Batch(to_float(self.resident.images[there]), labels, here, epoch, self.step)
            )
            if len(batch.images) != len(moves):
                moves = send([self.resident.draw(len(batch.images), self.moves)], self.device)[0]
            batch.images = move(batch.images, moves, self.recipe)
        return batch if after is None else after(batch)

    def _train(self, batch: Batch) -> Tensor:
        """One optimiser step; the loss, detached."""
        for optimiser in self.optimisers:
            optimiser.prepare(self.step, self.steps_per_epoch)
        loss = self._descend(self.model, batch) if self.replayed is None else self.replayed(batch)
        if self.hooks.after_step is not None:
            self.hooks.after_step(batch)
        return loss

    def _descend(self, model: nn.Module | Compiled, batch: Batch) -> Tensor:
        """What of a step can be recorded: nothing here depends on the step's number."""
        for optimiser in self.optimisers:
            optimiser.clear()
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        ):
            loss = self.loss(model, batch)  # type: ignore[arg-type]
        if loss.ndim != 0:
            raise ValueError(
                f"the loss hook returned a tensor {tuple(loss.shape)}; a scalar is wanted"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        for optimiser in self.optimisers:
            optimiser.advance()
        return loss.detach()

    def end(self, epoch: int, loss: float, images: int) -> None:
        """Book an epoch."""
        if not math.isfinite(loss):
            rate = self.recipe.lr_at(self.step - 1, self.steps_per_epoch)
            where = f"in epoch {epoch + 1} of {self.epochs}"
            raise Diverged(
                f"the loss was {loss} {where}, at learning rate {rate:g}; try a lower one, or clip_norm"
            )
        self.losses.append(loss)
        self.images += images
        if self.hooks.after_epoch is not None:
            self.hooks.after_epoch(epoch)
