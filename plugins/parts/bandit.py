"""A bandit over triggers: each step goes to one of them, mostly to the one that promises most.

Shen et al., ICML 2021 (K-Arm), as released. A trigger that is being optimised is an *arm*, a step
on it a *pull*. A pull *improves* where enough of its images get the label and the mask is smaller
than at every such pull before. An arm is left only after a pull that improved it, or once it has
ended.

This module knows arms by what their pulls bring, and nothing of images or networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from plugins.parts.inversion import Controller, Rule

PROMISE = 2500.0
"""Size from which an arm's progress is measured."""
EAGER = 1e4
"""Weight of a small size against fast progress."""
WARM = 2
"""Improvements of every arm before the bandit begins."""
LAST = 60
"""Improvements after which an arm ends."""
IDLE = 10
"""Pulls without an improvement that an arm for all images outlasts."""
DROPS = ((20, 0.3), (200, 0.8))
"""A pair is given up where after more pulls than the first number its best success is below the
second.
"""
NOTHING = 10
"""Pulls after which a pair is given up that turned no image at all."""
RETURN = 200
"""Pulls after which the way back of a pair is given up that did not turn all images at once."""

Hopeless = Callable[[int, float], bool]
"""Tells from its pulls and its best success whether an arm is given up."""


class Pulls(Controller):
    """The pulls of one arm, and its cost."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self.success = 0.0
        """The best of its pulls, whatever their size."""
        self.size = math.inf
        """Of the mask, in the last pull."""
        self.improved = False
        """The last pull did."""
        self.improvements = 0
        self.velocity = -math.inf
        """Progress at the last improvement."""
        self.idle = 0
        """Pulls without an improvement, since the bandit began to count them."""
        self._won = False
        self._seen = math.inf

    def record(self, success: float, size: float, scale: float) -> bool:
        """Record a pull, and tell whether it improved the arm.

        `success` is the share of its images that got the label, `size` that of its mask in pixels,
        of which each counts `scale` in the formula of progress.
        """
        self.steps += 1
        self.size = size
        self.success = max(self.success, success)
        self._won = success >= self.rule.bound
        self.improved = self._won and size < self.best
        if self.improved:
            self.improvements += 1
            self.best = size
            self.velocity = velocity(size * scale, self.improvements, self.steps)
        return self.improved

    def watch(self) -> bool:
        """Count pulls without an improvement, and tell whether the last has settled the arm.

        It is settled once its cost has risen and fallen, and it improves no more.
        """
        if self.best < math.inf:
            if self.best >= self._seen:
                self.idle += 1
            else:
                self.idle = 0
            self._seen = self.best
        return self._rose and self._fell and self.idle > IDLE

    def weigh(self) -> None:
        """Adapt the cost to the last pull."""
        self._weigh(self._won)


class Bandit:
    """The arms, which of them is next, and when it is over.

    `settle`: arms that are settled end (those for all images; pairs do not). `random` is the share
    of choices by chance, which `generator` decides.
    """

    def __init__(
        self,
        count: int,
        rule: Rule,
        hopeless: Hopeless,
        settle: bool,
        random: float,
        scale: float,
        generator: torch.Generator,
    ) -> None:
        self.arms = [Pulls(rule) for _ in range(count)]
        self.next = 0
        """The arm to pull."""
        self.over = False
        self.hopeless = hopeless
        self.settle = settle
        self.random = random
        self.scale = scale
        self.generator = generator
        self._begun = False
        """All arms have been warm, and the bandit has chosen: from then on arms can settle."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that pulls change; the generator is not in it."""
        return {
            "arms": [arm.state_dict() for arm in self.arms],
            "next": self.next,
            "over": self.over,
            "begun": self._begun,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for arm, kept in zip(self.arms, state["arms"], strict=True):
            arm.load_state_dict(kept)
        self.next = state["next"]
        self.over = state["over"]
        self._begun = state["begun"]

    @property
    def pulls(self) -> int:
        """Pulls of all arms so far."""
        return sum(arm.steps for arm in self.arms)

    @property
    def smallest(self) -> int:
        """The arm with the smallest size at a pull that succeeded, ended or not."""
        sizes = [arm.best for arm in self.arms]
        return sizes.index(min(sizes))

    def pulled(self, success: float, size: float) -> bool:
        """Record a pull of the next arm, and decide how to go on. Tells whether it improved."""
        arm = self.arms[self.next]
        improved = arm.record(success, size, self.scale)
        if self.hopeless(arm.steps, arm.success):
            arm.stopped = True
        if self._begun:
            self._end(arm)
        if not self.over:
            if not arm.stopped:
                arm.weigh()
            self._choose(arm)
        return improved

    def _end(self, arm: Pulls) -> None:
        """End an arm that is done, and with the smallest of all everything."""
        settled = arm.watch() and self.settle
        if arm.improvements <= LAST and not settled:
            return
        if self.next == self.smallest:
            self.over = True
            return
        arm.stopped = True
        self.over = all(other.stopped for other in self.arms)

    def _choose(self, arm: Pulls) -> None:
        """Choose the next arm after a pull of this one."""
        alive = [number for number, other in enumerate(self.arms) if not other.stopped]
        fresh = [number for number in alive if self.arms[number].improvements == 0]
        if arm.stopped:
            if fresh:
                self.next = fresh[0]
            elif alive:
                self.next = self._any(alive)
            else:
                self.over = True
            return
        if not arm.improved or arm.improvements < WARM:
            return
        if all(self.arms[number].improvements >= WARM for number in alive):
            self._begun = True
            if self._by_chance():
                if len(alive) > 1:
                    self.next = self._any(alive)
                return
            self.next = self._best_bet()
            return
        # Only an arm that never succeeded is not warm here. The first is taken, and where it has
        # ended, that costs it one more pull: as released.
        sizes = [other.best for other in self.arms]
        self.next = sizes.index(math.inf)

    def _by_chance(self) -> bool:
        return float(torch.rand((), generator=self.generator)) < self.random

    def _any(self, alive: Sequence[int]) -> int:
        place = int(torch.randint(len(alive), (), generator=self.generator))
        return alive[place]

    def _best_bet(self) -> int:
        """Return the arm that promises most, among those that have ended too: as released."""
        velocities = [arm.velocity for arm in self.arms]
        sizes = [arm.size * self.scale for arm in self.arms]
        return bet(velocities, sizes)


def velocity(size: float, improvements: int, pulls: int) -> float:
    """Return an arm's progress at an improvement."""
    return (PROMISE - size) / (improvements + pulls / 2)


def bet(velocities: Sequence[float], sizes: Sequence[float]) -> int:
    """Return the place of the arm that promises most, by its progress and its size now."""
    promises = []
    for speed, size in zip(velocities, sizes, strict=True):
        promises.append(speed + EAGER / max(size, torch.finfo().eps))
    return promises.index(max(promises))


def never(pulls: int, success: float) -> bool:
    """Give up no arm: the rule of triggers for all images."""
    return False


def hopeless(pulls: int, success: float) -> bool:
    """Tell whether a pair is given up; `success` is its best so far."""
    if success == 0:
        return pulls > NOTHING
    return any(pulls > after and success < least for after, least in DROPS)


def hopeless_back(pulls: int, success: float) -> bool:
    """Tell whether the way back of a pair is given up; `success` is its best so far."""
    return pulls > RETURN and success < 1
