"""Trigger inversion: which small patch would make a network give one label to every image?

Wang et al., S&P 2019 (Neural Cleanse). For a target label t, over clean images x,

    min over m, p of  CE(f((1 - m) x + m p), t) + cost sum(m)

with mask m and pattern p kept in (0, 1) by a tanh, and a cost that adapts: it rises while the
trigger works and falls while it does not. A trigger that is being optimised is a *lane*. Lanes know
nothing of each other, so several labels or pairs of labels go through the network in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import Workbench
from harness.learn import evaluating, to_float
from plugins.parts.squashing import squash, unsquash

BETAS = (0.5, 0.9)
"""Of Adam, in the released code of Neural Cleanse and of all that follow it."""


def blend(images: Tensor, masks: Tensor, patterns: Tensor) -> Tensor:
    """Put a pattern in place of what the mask covers.

    Nothing is clipped: all three are in [0, 1].
    """
    return (1 - masks) * images + masks * patterns


@dataclass(frozen=True)
class Rule:
    """Rule by which the cost adapts and a lane ends.

    A step succeeds where at least `bound` of its images get the target label. After `patience`
    successes in a row the cost is multiplied by `up`, after as many failures divided by `down`.
    With `start` "zero" there is no cost until `first` successes in a row (none: `patience`), then
    `cost`. A lane ends once its cost has both risen and fallen since it was first set, and `stop`
    steps have not brought its smallest size below `slack` times itself (none: it never ends).
    """

    bound: float = 0.99
    cost: float = 1e-3
    start: Literal["zero", "cost"] = "zero"
    patience: int = 5
    up: float = 2.0
    down: float = 2.0**1.5
    slack: float = 1.0
    stop: int | None = 25
    first: int | None = None


class Controller:
    """Cost of one lane, and the record of its steps."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.cost = 0.0
        if rule.start == "cost":
            self.cost = rule.cost
        self.best = math.inf
        """The smallest size of a step that succeeded."""
        self.wins = 0
        """Steps that succeeded."""
        self.steps = 0
        self.stopped = False
        self._ready = 0
        """Successes in a row while there is no cost."""
        self._idle = 0
        """Steps in a row that did not improve on the smallest size."""
        self._ups = 0
        """Successes in a row since the cost last rose."""
        self._downs = 0
        """Failures in a row since it last fell."""
        self._rose = False
        self._fell = False

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the rule."""
        return {name: value for name, value in vars(self).items() if name != "rule"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        vars(self).update(state)

    def update(self, success: float, size: float) -> bool:
        """Record a step, and tell whether it is the best so far.

        `success` is the share of its images that got the label, `size` that of its mask.
        """
        before = self.best
        won = success >= self.rule.bound
        self.steps += 1
        if won:
            self.wins += 1
            self.best = min(self.best, size)
        if self.best < self.rule.slack * before:
            self._idle = 0
        elif self.best < math.inf:
            self._idle += 1
        if self._enough():
            self.stopped = True
        else:
            self._weigh(won)
        return self.best < before

    def _enough(self) -> bool:
        stop = self.rule.stop
        if stop is None:
            return False
        return self._rose and self._fell and self._idle >= stop

    def _weigh(self, won: bool) -> None:
        """Adapt the cost.

        The step that sets it counts towards the first rise, which therefore comes a step early.
        """
        if won and self.cost == 0:
            self._ready += 1
        else:
            self._ready = 0
        first = self.rule.patience if self.rule.first is None else self.rule.first
        if self._ready >= first:
            self.cost = self.rule.cost
            self._forget()
        if won:
            self._ups += 1
            self._downs = 0
        else:
            self._ups = 0
            self._downs += 1
        if self._ups >= self.rule.patience:
            self._ups = 0
            self._rose = True
            self.cost *= self.rule.up
        elif self._downs >= self.rule.patience:
            self._downs = 0
            self._fell = True
            self.cost /= self.rule.down

    def _forget(self) -> None:
        """Begin anew with a cost that was just set."""
        self._ups = 0
        self._downs = 0
        self._rose = False
        self._fell = False


@dataclass(frozen=True)
class Found:
    """A trigger that inversion ended with."""

    mask: Tensor
    """(1, h, w), in [0, 1]"""
    pattern: Tensor
    """(c, h, w), in [0, 1]"""
    reached: bool
    """it met the bound at its best step, which this is; otherwise this is its last step"""

    @property
    def size(self) -> float:
        """Sum of the mask: the L1 norm that lanes are compared by, one colour channel counting."""
        return float(self.mask.abs().sum())


class Inversion:
    """Lanes: one trigger for each of `targets`, optimised from `starts` on, with a controller each.

    `starts` are masks (k, 1, h, w) and patterns (k, c, h or 1, w or 1) in [0, 1]; `images` are
    uint8 (n, h, w, c) on the device of `model`, which is in evaluation mode during a step and else
    as it is. Up to `at_once` images go through the network together, of as many lanes as that
    makes; fewer where memory does not allow it, of which a frozen model takes less.
    """

    def __init__(
        self,
        access: Workbench,
        model: nn.Module,
        images: Tensor,
        targets: Sequence[int],
        starts: tuple[Tensor, Tensor],
        controllers: Sequence[Controller],
        lr: float,
        at_once: int,
    ) -> None:
        self.access = access
        self.model = model
        self.images = images
        self.at_once = at_once
        self.targets = torch.tensor(list(targets), device=images.device)
        self.controllers = list(controllers)
        self.free: list[tuple[Tensor, Tensor]] = []
        """Mask and pattern of each lane before the tanh: what the optimiser moves."""
        parameters: list[Tensor] = []
        masks = unsquash(starts[0].to(images.device))
        patterns = unsquash(starts[1].to(images.device))
        for lane in range(len(masks)):
            mask = masks[lane].clone().requires_grad_()
            pattern = patterns[lane].clone().requires_grad_()
            self.free.append((mask, pattern))
            parameters += [mask, pattern]
        self.optimiser = torch.optim.Adam(parameters, lr=lr, betas=BETAS)
        self._best: list[Found | None] = [None] * len(self.free)

    def state_dict(self) -> dict[str, Any]:
        """Return all that steps change, for `access.steps` to keep."""
        return {
            "free": self.free,
            "optimiser": self.optimiser.state_dict(),
            "controllers": [controller.state_dict() for controller in self.controllers],
            "best": [None if best is None else vars(best) for best in self._best],
            "at_once": self.at_once,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for here, there in zip(self.free, state["free"], strict=True):
            for tensor, kept in zip(here, there, strict=True):
                tensor.copy_(kept)
        self.optimiser.load_state_dict(state["optimiser"])
        for controller, kept in zip(self.controllers, state["controllers"], strict=True):
            controller.load_state_dict(kept)
        self._best = [None if best is None else Found(**best) for best in state["best"]]
        self.at_once = state["at_once"]

    @property
    def running(self) -> list[int]:
        """The lanes that have not ended."""
        return [lane for lane, controller in enumerate(self.controllers) if not controller.stopped]

    def step(self, lanes: Sequence[int], batches: Iterable[Tensor]) -> list[int]:
        """Make one step of the rule for some lanes: descend on every batch, then adapt the costs.

        A batch is int64 (lanes, b), places of images; or (1, b) where all lanes see the same.
        Returns the lanes whose trigger is now the smallest so far.
        """
        lanes = list(lanes)
        better: list[int] = []
        for lane, (success, size) in zip(lanes, self.descend(lanes, batches), strict=True):
            if self.controllers[lane].update(success, size):
                self._best[lane] = self.now(lane, True)
                better.append(lane)
        return better

    @torch.no_grad()
    def restart(self, lane: int, mask: Tensor, pattern: Tensor) -> None:
        """Go on from another trigger in [0, 1], and let the optimiser forget the lane's past."""
        for parameter, pixels in zip(self.free[lane], (mask, pattern), strict=True):
            parameter.copy_(unsquash(pixels))
            self.optimiser.state.pop(parameter, None)

    def descend(self, lanes: Sequence[int], batches: Iterable[Tensor]) -> list[tuple[float, float]]:
        """Descend on every batch, at the costs as they are.

        Returns the success and the size of each lane, means over the batches, each before its own
        descent.
        """
        lanes = list(lanes)
        outcomes: list[Tensor] = []
        with evaluating(self.model):
            for batch in batches:
                outcome = self._descend(lanes, batch.to(self.images.device))
                outcomes.append(outcome)
        successes, sizes = torch.stack(outcomes).mean(0).tolist()
        return list(zip(successes, sizes, strict=True))

    def found(self, lane: int) -> Found:
        """Return the smallest trigger of a lane that met the bound, else the last."""
        best = self._best[lane]
        if best is None:
            return self.now(lane, False)
        return best

    def now(self, lane: int, reached: bool) -> Found:
        """Return the trigger of a lane as it is, and say of it whether it met the bound."""
        free_mask, free_pattern = self.free[lane]
        mask = squash(free_mask.detach())
        pattern = squash(free_pattern.detach())
        height, width = mask.shape[1:]
        whole = pattern.expand(-1, height, width).clone()
        return Found(mask, whole, reached)

    def _descend(self, lanes: list[int], batch: Tensor) -> Tensor:
        """Make a step of the optimiser.

        Returns success and size of the lanes before it, (2, lanes).
        """
        self.optimiser.zero_grad(set_to_none=True)
        size = batch.shape[1]
        shared = len(batch) == 1
        outcomes: list[Tensor] = []
        done = 0
        while done < len(lanes):
            part = slice(done, done + max(1, self.at_once // size))
            together = lanes[part]
            places = batch if shared else batch[part]
            try:
                outcome = self._pass(together, places)
            except torch.OutOfMemoryError:
                if len(together) == 1:
                    raise
                self.at_once = size * (len(together) // 2)
            else:
                outcomes.append(outcome)
                done = part.stop
        self.optimiser.step()
        self.access.tick(len(lanes) * size)
        return torch.cat(outcomes, dim=1)

    def _pass(self, lanes: list[int], batch: Tensor) -> Tensor:
        """Leave these lanes' gradients where the optimiser looks for them.

        Returns success and size of each, (2, lanes).
        """
        count = len(lanes)
        free_masks = [self.free[lane][0] for lane in lanes]
        free_patterns = [self.free[lane][1] for lane in lanes]
        masks = squash(torch.stack(free_masks))
        stacked = torch.stack(free_patterns)
        images = to_float(self.images[batch.flatten()])
        images = images.view(*batch.shape, *images.shape[1:])
        stamped = blend(images, masks[:, None], squash(stacked)[:, None])
        stamped = stamped.flatten(0, 1)
        # without a name, so that this copy can be freed before the backward pass
        logits = self.model(stamped.contiguous(memory_format=torch.channels_last)).float()
        labels = self.targets[lanes].repeat_interleave(batch.shape[1])
        sizes = masks.abs().sum((1, 2, 3))
        costs = sizes.new_tensor([self.controllers[lane].cost for lane in lanes])
        each = functional.cross_entropy(logits, labels, reduction="none")
        losses = each.view(count, -1).mean(1) + costs * sizes
        # lane by lane, the mask before the pattern
        parameters: list[Tensor] = []
        for lane in lanes:
            parameters += self.free[lane]
        gradients = torch.autograd.grad(losses.sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        with torch.no_grad():
            hits = logits.argmax(1) == labels
            success = hits.view(count, -1).float().mean(1)
            return torch.stack([success, sizes])


class Endless:
    """Batches (b,) of these places for ever, in a new order each time round.

    Those at the end of a round that make no whole batch are left out. There must be places enough
    for a batch.
    """

    def __init__(self, places: Tensor, batch: int, generator: torch.Generator) -> None:
        self.places = places
        self.batch = batch
        self.generator = generator
        self._order = places[:0]
        self._used = 0

    def __iter__(self) -> Endless:
        return self

    def __next__(self) -> Tensor:
        if self._used + self.batch > len(self._order):
            self._order = torch.randperm(len(self.places), generator=self.generator)
            self._used = 0
        chosen = self._order[self._used : self._used + self.batch]
        self._used += self.batch
        return self.places[chosen]

    def state_dict(self) -> dict[str, Any]:
        """Return where it is in its round; the generator is not in it."""
        return {"order": self._order, "used": self._used}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._order = state["order"]
        self._used = state["used"]
