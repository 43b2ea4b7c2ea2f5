"""The one training loop. Methods change it through `Hooks`.

Data rests on the device as uint8; an epoch asks the device for nothing (one number at its end, to
see that the loss is finite), and no evaluation happens inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.keeping.loops import Loop, NoLoop
from harness.keeping.objects import Objects
from harness.learn.augmentation import Moves, Resident, move, send
from harness.learn.device import (
    Precision,
    global_random,
    kernels,
    probe_precision,
    sent,
    single_precision,
)
from harness.learn.hooks import Batch, Hooks
from harness.learn.images import Device, ImageSet, to_float
from harness.learn.layout import bring
from harness.learn.optimiser import Optimiser
from harness.learn.recipes import Recipe
from harness.learn.stepping import Compiled, CUDARecorder, Recorder, Replayed, choose, recordable

REPORT_EVERY = 50
"""Steps between two calls of `progress` within an epoch."""

Generators = Callable[[str], torch.Generator]
"""Gives the CPU generator of a named stream."""

Progress = Callable[[int, int, float | None], None]
"""Takes steps done, steps in all, and the mean loss of an epoch or None."""

_Drawn = list[tuple[Tensor, Tensor, Moves]]
"""Batches of an epoch: places in the training set on the CPU and on the device, and moves there."""


class Diverged(RuntimeError):
    """The loss stopped being a finite number."""


@dataclass(frozen=True)
class History:
    """The account of a run: mean loss of each epoch, images processed, optimiser steps, precision
    used.

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
    progress: Progress | None = None,
    count: Callable[[int], None] | None = None,
    stepping: str = "auto",
    recorder: Callable[[torch.device], Recorder] = CUDARecorder,
    loop: Loop | None = None,
) -> History:
    """Train `model` in place on `data`; afterwards it is on `device`, in evaluation mode.

    Only parameters that require gradients are trained. `generator` is asked for the streams
    "order", "augment" and "noise" (dropout and whatever else draws from torch's global generators,
    which are left as found), once each. `deadline` is called at every step and raises when time is
    up; `progress(steps done, steps in all, mean loss of the epoch or None)` now and then;
    `count(images)` after each epoch. `stepping` ("auto", "eager", "graph", "compiled") is how steps
    are carried out, and `recorder` what records them: neither moves results beyond rounding.
    `loop` keeps the state of the run, and gives it back where an earlier one stopped.

    Raises Diverged when the mean loss of an epoch is not finite, ValueError where data, recipe and
    hooks do not fit.
    """
    loop = loop or NoLoop()
    try:
        run = _Training(model, data, recipe, hooks or Hooks(), generator, torch.device(device))
        try:
            if loop.finished:
                run.restore_end(loop.restore())
            else:
                run.replay(stepping, recorder)
                seed = int(torch.randint(2**62, (), generator=generator("noise")))
                with (
                    global_random(seed, device),
                    kernels(recipe.deterministic),
                    single_precision(),
                    torch.enable_grad(),
                ):
                    run.go(loop, deadline, progress, count)
        finally:
            model.eval()
            run.close()
        loop.finish(run.end_state)
        return run.history()
    finally:
        loop.abandon()


class _Training:
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
        self.model = model
        self.recipe = recipe
        self.hooks = hooks
        self.device = device
        bring(model, device)
        data = data.to(device)
        self.count = len(data)
        self.labels = data.labels
        self.resident = Resident(data.images, recipe)
        self.steps_per_epoch = recipe.steps_per_epoch(len(data))
        self.steps = recipe.total_steps(self.steps_per_epoch)
        self.epochs = math.ceil(self.steps / self.steps_per_epoch)
        self.precision = probe_precision(recipe.precision, device)
        self.order = generator("order")
        self.moves = generator("augment")
        self.loss = hooks.loss or self._cross_entropy
        self.optimisers = self._optimisers()
        self.networks = Objects(
            {
                "the model": model,
                "extra": tuple(tuple(optimiser.parameters) for optimiser in self._extra()),
            }
        )
        self.step = 0
        self.images = 0
        self.losses: list[float] = []
        self.forward: nn.Module | Compiled = model
        self.replayed: Replayed | None = None
        self.way = "eager"
        """How steps were carried out, for the manifest; at work, how those before were."""
        self.drawn: _Drawn | None = None
        self.drawn_from: list[Tensor] = []
        """States of the generators before the epoch was drawn that is under way or comes next."""
        self.first = 0
        """The step at which that epoch begins."""
        self.total = torch.zeros((), device=device)
        """The sum of the losses of its images so far."""
        self.seen = 0
        """Its images so far."""

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
        eager = partial(self._descend, self.model)
        recorded = partial(self._descend, self.forward)
        self.replayed = Replayed(eager, recorded, self.model, recorder(self.device))

    def go(
        self,
        loop: Loop,
        deadline: Callable[[], None] | None,
        progress: Progress | None,
        count: Callable[[int], None] | None,
    ) -> None:
        """Train to the end, from where `loop` says that an earlier run stopped."""
        kept = loop.restore()
        if kept is not None:
            self.restore(kept)
        try:
            while self.step < self.steps:
                epoch = len(self.losses)
                loss, images = self.epoch(epoch, loop, deadline, progress)
                if count is not None:
                    count(images)
                self.end(epoch, loss, images)
                if progress is not None:
                    progress(self.step, self.steps, loss)
        except ValueError as error:
            left = self.count % self.recipe.batch
            if left != 1 or "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                f"the last batch of an epoch holds 1 of the {self.count} images, which BatchNorm "
                f"cannot work on: choose another batch than {self.recipe.batch}, or "
                "drop_last = true"
            ) from error
        self.way = self.stepping()

    def history(self) -> History:
        """Return the account of the run."""
        return History(tuple(self.losses), self.images, self.step, self.precision, self.way)

    def state(self) -> dict[str, Any]:
        """Return all that the rest of the run depends on, between two steps."""
        return {
            "networks": self.networks.state(),
            "optimisers": [optimiser.state() for optimiser in self.optimisers],
            "drawn_from": self.drawn_from,
            "drawn_to": self._draws(),
            "first": self.first,
            "total": self.total,
            "seen": self.seen,
            "step": self.step,
            "images": self.images,
            "losses": self.losses,
            "way": self.stepping(),
        }

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Put back what `state` returned, and draw the epoch again that was under way."""
        self.networks.restore(kept["networks"])
        for optimiser, state in zip(self.optimisers, kept["optimisers"], strict=True):
            optimiser.restore(state)
        self.images = kept["images"]
        self.losses = kept["losses"]
        self.total = kept["total"]
        self.seen = kept["seen"]
        self.way = kept["way"]
        # Nothing has been drawn before the first step of all.
        if kept["drawn_from"]:
            self._set_draws(kept["drawn_from"])
            self.step = kept["first"]
            self.drawn = self._draw()
            self._set_draws(kept["drawn_to"])
        self.step = kept["step"]

    def end_state(self) -> dict[str, Any]:
        """Return what the run leaves."""
        return {
            "networks": self.networks.state(),
            "step": self.step,
            "images": self.images,
            "losses": self.losses,
            "way": self.way,
        }

    def restore_end(self, kept: Mapping[str, Any]) -> None:
        """Put back what `end_state` returned."""
        self.networks.restore(kept["networks"])
        self.step = kept["step"]
        self.images = kept["images"]
        self.losses = kept["losses"]
        self.way = kept["way"]

    def _extra(self) -> list[Optimiser]:
        """Return the optimisers of parameters that are trained along with the model."""
        return self.optimisers[len(self.optimisers) - len(self.hooks.extra) :]

    def _draws(self) -> list[Tensor]:
        return [self.order.get_state(), self.moves.get_state()]

    def _set_draws(self, states: Sequence[Tensor]) -> None:
        for generator, state in zip((self.order, self.moves), states, strict=True):
            generator.set_state(state)

    def close(self) -> None:
        """Let go of what the device holds for the run: it refers to itself, and the garbage
        collector may be late.

        Gradients go, too: those of recorded steps lie in memory of the recording.
        """
        for optimiser in self.optimisers:
            optimiser.torch.zero_grad(set_to_none=True)
        del self.loss, self.replayed

    def stepping(self) -> str:
        """Tell how steps were carried out, for the manifest."""
        if self.replayed is None:
            return "eager"
        if not self.replayed.recorded:
            if self.replayed.problem is None:
                return self.way  # too few steps were left to record one
            return _with_problem("eager", self.replayed.problem)
        if not isinstance(self.forward, Compiled):
            return "graph"
        if self.forward.problem is None:
            return "compiled"
        return _with_problem("graph", self.forward.problem)

    def _optimisers(self) -> list[Optimiser]:
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        extra = self.hooks.extra
        if not trainable and not extra:
            raise ValueError(
                f"nothing to train: no parameter of {type(self.model).__name__} requires a gradient"
            )
        optimisers = []
        if trainable:
            optimisers.append(Optimiser(trainable, self.recipe))
        for one in extra:
            recipe = self.recipe.replace(**one.recipe)
            optimisers.append(Optimiser(one.parameters, recipe, one.zero_grad))
        return optimisers

    def _cross_entropy(self, model: nn.Module, batch: Batch) -> Tensor:
        if batch.labels is None:
            raise ValueError("a hook returned a batch without labels, which cross-entropy needs")
        logits = model(batch.images).float()
        return functional.cross_entropy(
            logits, batch.labels, label_smoothing=self.recipe.label_smoothing
        )

    def _indices(self) -> Tensor:
        """Draw the order of the coming epoch, on the CPU."""
        if self.recipe.replacement:
            return torch.randint(self.count, (self.count,), generator=self.order)
        if self.recipe.shuffle:
            return torch.randperm(self.count, generator=self.order)
        return torch.arange(self.count)

    def epoch(
        self,
        epoch: int,
        loop: Loop,
        deadline: Callable[[], None] | None,
        progress: Progress | None,
    ) -> tuple[float, int]:
        """Train for one epoch, or what is left of it or of the run; return its mean loss and number
        of images.
        """
        self.model.train()
        if self.hooks.mode is not None:
            self.hooks.mode(self.model)
        drawn = self.drawn or self._draw()
        place = f"epoch {epoch + 1:,} of {self.epochs:,}"
        for here, there, moves in drawn[self.step - self.first :]:
            if deadline is not None:
                deadline()
            loop.boundary(self.step, place, self.state)
            batch = self._batch(here, there, moves, epoch)
            loss = self._train(batch)
            self.total += loss * len(batch.images)
            self.seen += len(batch.images)
            self.step += 1
            if progress is not None and self.step % REPORT_EVERY == 0:
                progress(self.step, self.steps, None)
        # The next epoch is drawn now, while the device is still busy with this one.
        self.drawn = self._draw() if self.step < self.steps else None
        mean = float(self.total) / self.seen
        images = self.seen
        self.total = torch.zeros((), device=self.device)
        self.seen = 0
        return mean, images

    def _draw(self) -> _Drawn:
        """Draw the batches of the coming epoch, or of what is left of the run."""
        self.drawn_from = self._draws()
        self.first = self.step
        steps = min(self.steps_per_epoch, self.steps - self.step)
        here = torch.split(self._indices(), self.recipe.batch)[:steps]
        moves = [self.resident.draw(len(chosen), self.moves) for chosen in here]
        all_there = sent(torch.cat(here), self.device)
        there = torch.split(all_there, self.recipe.batch)
        return list(zip(here, there, send(moves, self.device), strict=True))

    def _batch(self, here: Tensor, there: Tensor, moves: Moves, epoch: int) -> Batch:
        labels = None if self.labels is None else self.labels[there]
        if self.hooks.before_augment is None:
            images = self.resident.take(there, moves)
            batch = Batch(images, labels, here, epoch, self.step)
        else:
            images = to_float(self.resident.images[there])
            batch = self.hooks.before_augment(Batch(images, labels, here, epoch, self.step))
            if len(batch.images) != len(moves):
                others = self.resident.draw(len(batch.images), self.moves)
                (moves,) = send([others], self.device)
            batch.images = move(batch.images, moves, self.recipe)
        if self.hooks.after_augment is None:
            return batch
        return self.hooks.after_augment(batch)

    def _train(self, batch: Batch) -> Tensor:
        """Carry out one optimiser step; return the loss, detached."""
        for optimiser in self.optimisers:
            optimiser.prepare(self.step, self.steps_per_epoch)
        if self.replayed is None:
            loss = self._descend(self.model, batch)
        else:
            loss = self.replayed(batch)
        if self.hooks.after_step is not None:
            self.hooks.after_step(batch)
        return loss

    def _descend(self, model: nn.Module | Compiled, batch: Batch) -> Tensor:
        """Carry out the part of a step that can be recorded: nothing here depends on the step's
        number.
        """
        for optimiser in self.optimisers:
            optimiser.clear()
        half = self.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            loss = self.loss(model, batch)  # type: ignore[arg-type]
        if loss.ndim != 0:
            shape = tuple(loss.shape)
            raise ValueError(f"the loss hook returned a tensor {shape}; a scalar is expected")
        loss.backward()  # type: ignore[no-untyped-call]
        for optimiser in self.optimisers:
            optimiser.advance()
        return loss.detach()

    def end(self, epoch: int, loss: float, images: int) -> None:
        """Book an epoch."""
        if not math.isfinite(loss):
            rate = self.recipe.lr_at(self.step - 1, self.steps_per_epoch)
            raise Diverged(
                f"the loss was {loss} in epoch {epoch + 1} of {self.epochs}, "
                f"at learning rate {rate:g}; try a lower one, or clip_norm"
            )
        self.losses.append(loss)
        self.images += images
        if self.hooks.after_epoch is not None:
            self.hooks.after_epoch(epoch)


def _with_problem(way: str, problem: str | None) -> str:
    return way if problem is None else f"{way} ({problem})"
