"""Trigger inversion: which small patch would make a network give one label to every image?

Wang et al., S&P 2019 (Neural Cleanse). For a target label t, over clean images x,

    min over m, p of  CE(f((1 - m) x + m p), t) + cost sum(m)

with mask m and pattern p kept in (0, 1) by a tanh, and a cost that adapts: it rises while the
trigger works and falls while it does not. A trigger in the making is a *lane*. Lanes know nothing
of each other, so several labels or pairs of labels go through the network in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import Workbench
from harness.learn import evaluating, to_float
from plugins.parts.squashing import squash, unsquash

BETAS = (0.5, 0.9)
"""Of Adam, in the released code of Neural Cleanse and of all that follow it."""


def blend(images: Tensor, masks: Tensor, patterns: Tensor) -> Tensor:
    """Images with a pattern in place of what the mask covers. Nothing is clipped: all three are in
    [0, 1].
    """
    return (1 - masks) * images + masks * patterns


@dataclass(frozen=True)
class Rule:
    """How the cost adapts and when a lane has done enough.

    A step succeeds where at least `bound` of its images get the target label. After `patience`
    successes in a row the cost is multiplied by `up`, after as many failures divided by `down`.
    With `start` "zero" there is no cost until `patience` successes in a row, then `cost`. A lane
    ends once its cost has both risen and fallen since it was first set, and `stop` steps have not
    brought its smallest size below `slack` times itself (none: it never ends).
    """

    bound: float = 0.99
    cost: float = 1e-3
    start: Literal["zero", "cost"] = "zero"
    patience: int = 5
    up: float = 2.0
    down: float = 2.0**1.5
    slack: float = 1.0
    stop: int | None = 25


class Controller:
    """The cost of one lane; `best` is the smallest size of a step that succeeded, `wins` how many
    did.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.cost = rule.cost if rule.start == "cost" else 0.0
        self.best, self.stopped = math.inf, False
        self.wins = self.steps = 0
        self._ready = self._idle = self._ups = self._downs = 0
        self._rose = self._fell = False

    def update(self, success: float, size: float) -> bool:
        """Book a step: the share of its images that got the label, and its mask's size. Is it the
        best so far?
        """
        won, before = success >= self.rule.bound, self.best
        self.steps, self.wins = self.steps + 1, self.wins + won
        if won and size < self.best:
            self.best = size
        if self.best < math.inf:
            self._idle = self._idle + 1 if self.best >= self.rule.slack * before else 0
        if (
            self.rule.stop is not None
            and self._rose
            and self._fell
            and self._idle >= self.rule.stop
        ):
            self.stopped = True
        else:
            self._weigh(won)
        return self.best < before

    def _weigh(self, won: bool) -> None:
        """Adapt the cost. The step that sets it counts towards the first rise, which so comes a
        step early.
        """
        self._ready = self._ready + 1 if won and self.cost == 0 else 0
        if self._ready >= self.rule.patience:
            self.cost = self.rule.cost
            self._forget()
        self._ups, self._downs = (self._ups + 1, 0) if won else (0, self._downs + 1)
        if self._ups >= self.rule.patience:
            self._ups, self._rose = 0, True
            self.cost *= self.rule.up
        elif self._downs >= self.rule.patience:
            self._downs, self._fell = 0, True
            self.cost /= self.rule.down

    def _forget(self) -> None:
        self._ups = self._downs = 0
        self._rose = self._fell = False


@dataclass(frozen=True)
class Found:
    """A trigger: `mask` (1, h, w) and `pattern` (c, h, w), in [0, 1]; `reached`: it met the bound
    at its best step.

    Where it never did, this is the trigger as it was last.
    """

    mask: Tensor
    pattern: Tensor
    reached: bool

    @property
    def size(self) -> float:
        """Sum of the mask: the L1 norm that lanes are compared by, one colour channel counting."""
        return float(self.mask.abs().sum())


class Inversion:
    """Lanes: one trigger for each of `targets`, from `masks` (k, 1, h, w) and `patterns` (k, c, h
    or 1, w or 1) on.

    `model` is in evaluation mode during a step and else as it is; `images` are uint8 (n, h, w, c)
    on its device, starts are in [0, 1]. Up to `at_once` images go through the network together, of
    as many lanes as that makes; fewer where memory does not allow it, of which a frozen model takes
    less.
    """

    def __init__(
        self,
        access: Workbench,
        model: nn.Module,
        images: Tensor,
        targets: Sequence[int],
        starts: tuple[Tensor, Tensor],
        rule: Rule,
        lr: float,
        at_once: int,
    ) -> None:
        self.access, self.model, self.images, self.at_once = access, model, images, at_once
        self.targets = torch.tensor(list(targets), device=images.device)
        self.controllers = [Controller(rule) for _ in targets]
        masks, patterns = (unsquash(start.to(images.device)).unbind() for start in starts)
        self.free = [
            tuple(one.clone().requires_grad_() for one in pair)
            for pair in zip(masks, patterns, strict=True)
        ]
        self.optimiser = torch.optim.Adam(
            [one for pair in self.free for one in pair], lr=lr, betas=BETAS
        )
        self.success = [0.0] * len(self.free)
        """Of each lane's last step."""
        self._best: list[Found | None] = [None] * len(self.free)

    @property
    def running(self) -> list[int]:
        """The lanes that have not ended."""
        return [lane for lane, controller in enumerate(self.controllers) if not controller.stopped]

    def step(self, lanes: Sequence[int], batches: Iterable[Tensor]) -> None:
        """One step of the rule for some lanes: descend on every batch, then let the costs adapt.

        A batch is int64 (lanes, b), places of images; or (1, b) where all lanes see the same.
        """
        lanes = list(lanes)
        with evaluating(self.model):
            told = [self._descend(lanes, batch.to(self.images.device)) for batch in batches]
        success, sizes = torch.stack(told).mean(0).tolist()
        for lane, share, size in zip(lanes, success, sizes, strict=True):
            self.success[lane] = share
            if self.controllers[lane].update(share, size):
                self._best[lane] = self._now(lane, True)

    def found(self, lane: int) -> Found:
        """The smallest trigger of a lane that met the bound, else the last."""
        return self._best[lane] or self._now(lane, False)

    def _now(self, lane: int, reached: bool) -> Found:
        mask, pattern = (squash(one.detach()) for one in self.free[lane])
        return Found(mask, pattern.expand(-1, *mask.shape[1:]).clone(), reached)

    def _descend(self, lanes: list[int], batch: Tensor) -> Tensor:
        """A step of the optimiser; what the lanes were before it: success and size, (2, lanes)."""
        self.optimiser.zero_grad(set_to_none=True)
        told: list[Tensor] = []
        done = 0
        while done < len(lanes):
            part = slice(done, done + max(1, self.at_once // batch.shape[1]))
            try:
                told.append(self._pass(lanes[part], batch if len(batch) == 1 else batch[part]))
            except torch.OutOfMemoryError:
                if len(lanes[part]) == 1:
                    raise
                self.at_once = batch.shape[1] * (len(lanes[part]) // 2)
            else:
                done = part.stop
        self.optimiser.step()
        self.access.tick(len(lanes) * batch.shape[1])
        return torch.cat(told, dim=1)

    def _pass(self, lanes: list[int], batch: Tensor) -> Tensor:
        """Leave these lanes' gradients where the optimiser looks for them."""
        free = [self.free[lane] for lane in lanes]
        masks, patterns = (
            squash(torch.stack([mask for mask, _ in free])),
            torch.stack([row for _, row in free]),
        )
        images = to_float(self.images[batch.flatten()])
        images = images.view(*batch.shape, *images.shape[1:])
        stamped = blend(images, masks[:, None], squash(patterns)[:, None])
        logits = self.model(
            stamped.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        ).float()
        labels = self.targets[lanes].repeat_interleave(batch.shape[1])
        sizes = masks.abs().sum((1, 2, 3))
        costs = sizes.new_tensor([self.controllers[lane].cost for lane in lanes])
        losses = (
            functional.cross_entropy(logits, labels, reduction="none").view(len(lanes), -1).mean(1)
            + costs * sizes
        )
        inputs = [one for pair in free for one in pair]
        for one, gradient in zip(inputs, torch.autograd.grad(losses.sum(), inputs), strict=True):
            one.grad = gradient
        with torch.no_grad():
            hit = (logits.argmax(1) == labels).view(len(lanes), -1).float().mean(1)
            return torch.stack([hit, sizes])


def endless(places: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches (b,) of these places for ever, in a new order each time round; what makes no whole
    batch is left out.
    """
    while True:
        order = torch.randperm(len(places), generator=generator)
        yield from (places[chosen] for chosen in torch.split(order, batch) if len(chosen) == batch)
