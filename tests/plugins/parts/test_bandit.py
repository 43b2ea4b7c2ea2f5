from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.parts.bandit import Bandit, hopeless, hopeless_back, never
from plugins.parts.inversion import Rule

NONE = 1e10
"""Size of a trigger that was never found, in the restatement."""


@dataclass
class Restated:
    """The released loop of K-Arm over given outcomes, in columns of one entry for each arm.

    `kind` is "all" for triggers of all images, "pair" for those of pairs, "back" for the way back.
    """

    kind: str
    outcomes: Any
    count: int
    steps: int
    seed: int
    bound: float = 0.99
    patience: int = 5
    chance: float = 0.3
    scale: float = 1.0
    order: list[int] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:  # noqa: C901, PLR0915  # in one piece, to be held against the paper's
        draw = torch.Generator().manual_seed(self.seed)
        n = self.count
        zeros = functools.partial(np.zeros, n)
        self.best = np.full(n, NONE)
        best_acc, wins, pulls = zeros(), zeros(int), zeros(int)
        speed, size_now = np.full(n, -NONE), np.full(n, NONE)
        cost, set_, ups, downs = zeros(), zeros(int), zeros(int), zeros(int)
        rose, fell, gone = zeros(bool), zeros(bool), zeros(bool)
        idle, idle_best = zeros(int), np.full(n, NONE)
        watching, y = False, 0
        for step in range(self.steps):
            self.order.append(y)
            self.costs.append(cost[y])
            acc, size = self.outcomes(step, y)
            pulls[y] += 1
            size_now[y] = size
            best_acc[y] = max(acc, best_acc[y])

            if self.kind == "pair" and (
                (pulls[y] > 20 and best_acc[y] < 0.3)
                or (pulls[y] > 200 and best_acc[y] < 0.8)
                or (pulls[y] > 10 and best_acc[y] == 0)
            ):
                gone[y] = True
                self.seen["dropped"] += 1
            if self.kind == "back" and pulls[y] > 200 and best_acc[y] < 1:
                gone[y] = True

            better = acc >= self.bound and size < self.best[y]
            if better:
                wins[y] += 1
                speed[y] = (2500 - size * self.scale) / (wins[y] + pulls[y] / 2)
                self.best[y] = size

            if watching:
                if self.best[y] < NONE:
                    idle[y] = idle[y] + 1 if self.best[y] >= idle_best[y] else 0
                idle_best[y] = min(self.best[y], idle_best[y])
                settled = rose[y] and fell[y] and idle[y] > 10 and self.kind == "all"
                if wins[y] > 60 or settled:
                    self.seen["settled" if settled else "sixty"] += 1
                    if y == int(np.argmin(self.best)):
                        break
                    gone[y] = True
                    if gone.all():
                        break

            if not gone[y]:
                won = acc >= self.bound
                if cost[y] == 0 and won:
                    set_[y] += 1
                    if set_[y] >= 2:
                        cost[y], ups[y], downs[y], rose[y], fell[y] = 1e-3, 0, 0, False, False
                else:
                    set_[y] = 0
                ups[y], downs[y] = (ups[y] + 1, 0) if won else (0, downs[y] + 1)
                if ups[y] >= self.patience:
                    ups[y], rose[y] = 0, True
                    cost[y] *= 1.5
                elif downs[y] >= self.patience:
                    downs[y], fell[y] = 0, True
                    cost[y] /= 1.5

            alive = np.flatnonzero(~gone)
            new = [k for k in alive if wins[k] == 0]
            if gone[y] and new:
                y = int(new[0])
            elif gone[y]:
                if len(alive) == 0:
                    break
                y = int(alive[int(torch.randint(len(alive), (), generator=draw))])
                self.seen["elsewhere"] += 1
            elif better and wins[y] >= 2 and all(wins[alive] >= 2):
                watching = True
                bets = speed + 1e4 / (size_now * self.scale)
                if float(torch.rand((), generator=draw)) < self.chance:
                    self.seen["chance"] += 1
                    if len(alive) > 1:
                        y = int(alive[int(torch.randint(len(alive), (), generator=draw))])
                else:
                    y = int(np.argmax(bets))
                    self.seen["bet"] += 1
                    self.seen["bet on one that ended"] += int(gone[y])
            elif better and wins[y] >= 2:
                y = int(np.flatnonzero(self.best == NONE)[0])
                self.seen["next"] += 1
                self.seen["next had ended"] += int(gone[y])


KINDS = {"all": never, "pair": hopeless, "back": hopeless_back}


def compare(kind: str, outcomes: Any, count: int, seed: int, steps: int = 1000) -> Counter[str]:
    """Run both over the same outcomes."""
    told = Restated(kind, outcomes, count, steps, seed, scale=2.0)
    told.run()
    rule = Rule(0.99, 1e-3, "zero", 5, 1.5, 1.5, stop=None, first=2)
    draw = torch.Generator().manual_seed(seed)
    bandit = Bandit(count, rule, KINDS[kind], kind == "all", 0.3, 2.0, draw)
    order, costs = [], []
    while not bandit.over and len(order) < steps:
        order.append(bandit.next)
        costs.append(bandit.arms[bandit.next].cost)
        bandit.pulled(*outcomes(len(order) - 1, bandit.next))
    assert order == told.order
    assert costs == pytest.approx(told.costs)
    sizes = [NONE if arm.best == math.inf else arm.best for arm in bandit.arms]
    assert sizes == told.best.tolist()
    assert bandit.smallest == int(np.argmin(told.best))
    return told.seen


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(KINDS)),
    st.integers(1, 6),
    st.integers(0, 10_000),
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]), min_size=6, max_size=6),
    st.floats(0.9, 1.0),
)
def test_the_released_loop_restated(
    kind: str, count: int, seed: int, ease: list[float], shrink: float
) -> None:
    """Arms of different ease, whose triggers shrink with luck."""
    luck = np.random.default_rng(seed).random((1000, 2))

    def outcomes(step: int, arm: int) -> tuple[float, float]:
        success = 1.0 if luck[step, 0] < ease[arm] else round(ease[arm] * luck[step, 0], 1)
        return success, float(2000 * shrink**step * (0.5 + luck[step, 1]) + arm)

    compare(kind, outcomes, 1 if kind == "back" else count, seed)


def eased(ease: list[float], seed: int, step: int, arm: int) -> tuple[float, float]:
    """Outcomes of arms that succeed as often as `ease` says, while triggers shrink with luck."""
    success, size = np.random.default_rng((seed, step)).random(2)
    return float(success < ease[arm]), float(2000 * 0.99**step * (0.5 + size) + arm)


def stuck(seed: int, step: int, arm: int) -> tuple[float, float]:
    """Outcomes of an arm that is quick and soon stuck, and of one that is slow and smaller."""
    luck = np.random.default_rng((seed, step)).random()
    if arm == 0:
        return float(luck < 0.6), 500.0 - min(step, 2)
    return float(luck < 0.1), 450.0 - step / 100


def test_the_restatement_walks_every_way() -> None:
    seen: Counter[str] = Counter()
    cases = [
        ("all", [1.0, 0.7, 0.8]),
        ("pair", [0.9, 0.0, 0.9, 0.2, 0.8]),
        ("pair", [0.0, 0.2, 0.0]),
        ("pair", [0.9, 0.7]),
    ]
    for seed in range(10):
        for kind, ease in cases:
            seen += compare(kind, functools.partial(eased, ease, seed), len(ease), seed)
        seen += compare("all", functools.partial(stuck, seed), 2, seed)
    assert set(seen) >= {
        "dropped", "settled", "sixty", "elsewhere", "chance", "bet", "bet on one that ended",
        "next", "next had ended",
    }  # fmt: skip


def test_hopeless_pairs() -> None:
    """By the best success so far, after more steps than ten, twenty and two hundred."""
    assert not hopeless(10, 0.0)
    assert hopeless(11, 0.0)
    assert not hopeless(20, 0.29)
    assert hopeless(21, 0.29)
    assert not hopeless(21, 0.3)
    assert not hopeless(200, 0.79)
    assert hopeless(201, 0.79)
    assert not hopeless(201, 0.8)
    assert not hopeless_back(200, 0.5)
    assert hopeless_back(201, 0.99)
    assert not hopeless_back(999, 1.0)


def test_a_pair_that_worked_once_is_not_given_up_for_its_last_step() -> None:
    rule = Rule(0.99, 1e-3, "zero", 5, 1.5, 1.5, stop=None, first=2)
    bandit = Bandit(1, rule, hopeless, False, 0.3, 1.0, torch.Generator())
    bandit.pulled(0.85, 100.0)
    for _ in range(300):
        bandit.pulled(0.0, 100.0)
    assert not bandit.over
