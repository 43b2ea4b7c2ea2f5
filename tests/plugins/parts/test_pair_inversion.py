from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import Incompatible
from harness.access.granted import Access
from harness.learn.images import ImageSet, to_float
from plugins.parts.inversion import Endless
from plugins.parts.pair_inversion import (
    NOISE,
    PairSettings,
    pair_distances,
    pair_triggers,
    two_way,
)
from tests.kit.learned import Tiny, access_to, pictures
from tests.kit.scanned import TARGET, victim

pytestmark = pytest.mark.usefixtures("one_thread")

EPS = 1e-7


def free(pixels: Tensor) -> Tensor:
    return torch.atanh((pixels - 0.5) * (2 - EPS)).requires_grad_()


def shown(numbers: Tensor) -> Tensor:
    return torch.tanh(numbers) / (2 - EPS) + 0.5


class Cost:
    """The weight of the size: up after `patience` successes in a row, down after as many failures,
    faster.
    """

    def __init__(self, cost: float, patience: int, up: float) -> None:
        self.cost, self.patience, self.up = cost, patience, up
        self.row = [0, 0]

    def move(self, won: bool) -> None:
        self.row = [self.row[0] + 1, 0] if won else [0, self.row[1] + 1]
        if self.row[0] >= self.patience:
            self.cost, self.row[0] = self.cost * self.up, 0
        elif self.row[1] >= self.patience:
            self.cost, self.row[1] = self.cost / self.up**1.5, 0


def one_pair(access: Access, net: nn.Module, data: ImageSet, pair: Any, chosen: Any) -> float:
    """MOTH's search for one pair, step by step: the distance, infinite where it failed."""
    assert data.labels is not None
    source, target = pair
    order = torch.randperm(len(data), generator=access.generator("s/images"))
    places = order[data.labels[order] == source][: chosen.images]
    draw = access.generator(f"s/{source}/{target}")
    mask, pattern = (
        free(torch.rand(1, 8, 8, generator=draw)),
        free(torch.rand(1, 8, 8, generator=draw)),
    )
    stream = Endless(places, chosen.batch, draw)
    adam = torch.optim.Adam([mask, pattern], lr=0.1, betas=(0.5, 0.9))
    cost, smallest, distance = Cost(chosen.cost, chosen.patience, chosen.up), math.inf, math.inf
    for _ in range(chosen.steps):
        hits, sizes = [], []
        for _ in range(len(places) // chosen.batch):
            images = to_float(data.images[next(stream)])
            logits = net((1 - shown(mask)) * images + shown(mask) * shown(pattern))
            wanted = torch.full((len(images),), target)
            size = shown(mask).sum()
            adam.zero_grad()
            (functional.cross_entropy(logits, wanted) + cost.cost * size).backward()
            hits.append(float((logits.argmax(1) == wanted).float().mean()))
            sizes.append(float(size.detach()))
            adam.step()
        won = float(np.mean(hits)) >= chosen.bound
        if won and np.mean(sizes) < smallest:
            smallest, distance = float(np.mean(sizes)), float(shown(mask.detach()).sum())
        cost.move(won)
    return distance


def test_the_distance_restated() -> None:
    net, data = victim(norms=False), pictures(60)
    chosen = PairSettings(images=17, steps=25, batch=5, cost=0.02, patience=3)
    pairs = [(0, 1), (0, TARGET), (1, TARGET)]
    access = access_to(net, data)
    found = pair_distances(access, net, data, pairs, chosen, "s")
    expected = [one_pair(access_to(net, data), net, data, pair, chosen) for pair in pairs]
    assert np.isfinite(expected).any()
    np.testing.assert_allclose(found, np.where(np.isfinite(expected), expected, np.nan), rtol=1e-3)
    assert access.images_processed == 3 * 25 * 15


def test_a_distance_is_summed_over_the_colours() -> None:
    """So is the size that its cost weighs; and masks are one channel."""
    chosen = PairSettings(steps=2, bound=0.01)
    assert chosen.rule(3).cost == pytest.approx(3 * chosen.rule(1).cost)
    net = Coloured()
    data = pictures(30, channels=3)
    access = access_to(net, data)
    access._context = replace(access._context, task=replace(Tiny.task, channels=3))
    (trigger,) = pair_triggers(access, net, data, [(0, 1)], chosen, "s")
    distances = pair_distances(access, net, data, [(0, 1)], chosen, "s")
    assert trigger.mask.shape == (1, 8, 8)
    assert distances[0] == pytest.approx(3 * trigger.size)


class Coloured(nn.Module):
    """Answers 1 to everything."""

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1).sum(1, keepdim=True)
        return flat * 1e-3 + torch.tensor([[0.0, 1.0, 0.0]])


def test_a_pair_is_measured_alike_whatever_others_are() -> None:
    net, data = victim(), pictures(60)
    chosen = PairSettings(images=20, steps=6, batch=10, bound=0.5)
    alone = pair_distances(access_to(net), net, data, [(1, 2)], chosen, "s")
    among = pair_distances(access_to(net), net, data, [(0, 2), (1, 2), (2, 0)], chosen, "s")
    np.testing.assert_allclose(alone[0], among[1], rtol=1e-3)


def test_a_backdoor_is_a_short_way_and_failures_are_told() -> None:
    net, data = victim(), pictures(60)
    chosen = PairSettings(images=20, steps=60, batch=10)
    to_target, elsewhere = pair_distances(
        access_to(net), net, data, [(0, TARGET), (TARGET, 0)], chosen, "s"
    )
    assert to_target < 0.5 * elsewhere
    hopeless = PairSettings(images=20, steps=1, batch=10, bound=1.0)
    assert np.isnan(pair_distances(access_to(net), net, data, [(TARGET, 0)], hopeless, "s")).all()


def test_a_class_without_images_is_incompatible() -> None:
    data = pictures(30).subset(torch.arange(0, 30, 3))  # class 0 alone
    with pytest.raises(Incompatible, match="class 1"):
        pair_distances(access_to(victim()), victim(), data, [(1, 0)], PairSettings(), "s")


# --- both ways ------------------------------------------------------------------------------------


def both(net: nn.Module, images: Tensor, starts: Any, chosen: PairSettings) -> list[float]:
    """MOTH's search for both ways, step by step: their best sizes."""
    count = images.shape[1]
    draw = torch.Generator().manual_seed(3)
    pixels = [[starts[0][way], starts[1][way]] for way in (0, 1)]
    costs = [Cost(chosen.cost, chosen.patience, chosen.up) for _ in (0, 1)]
    best = [math.inf, math.inf]

    def begin() -> tuple[list[list[Tensor]], torch.optim.Adam]:
        lanes = [[free(mask), free(pattern)] for mask, pattern in pixels]
        return lanes, torch.optim.Adam([*lanes[0], *lanes[1]], lr=0.1, betas=(0.5, 0.9))

    lanes, adam = begin()
    for _ in range(chosen.steps):
        loss, outcomes = torch.zeros(()), []
        for way in (0, 1):
            mask, pattern = (shown(numbers) for numbers in lanes[way])
            logits = net((1 - mask) * to_float(images[way]) + mask * pattern)
            wanted = torch.full((count,), 1 - way)
            loss = loss + functional.cross_entropy(logits, wanted, reduction="sum")
            loss = loss + costs[way].cost * mask.sum()
            outcomes.append(
                (float((logits.argmax(1) == wanted).float().mean()), float(mask.detach().sum()))
            )
        adam.zero_grad()
        loss.backward()
        adam.step()
        better = []
        for way, (success, size) in enumerate(outcomes):
            won = success >= chosen.bound
            if won and size < best[way]:
                best[way] = size
                better.append(way)
            costs[way].move(won)
        if better:
            for way in (0, 1):
                pixels[way] = [shown(numbers).detach() for numbers in lanes[way]]
                if way in better:
                    for place, tensor in enumerate(pixels[way]):
                        noise = (2 * torch.rand(tensor.shape, generator=draw) - 1) * NOISE
                        pixels[way][place] = tensor + noise
                pixels[way] = [tensor.clamp(0, 1) for tensor in pixels[way]]
            lanes, adam = begin()
    return best


def test_both_ways_restated() -> None:
    net, data = victim(norms=False), pictures(30)
    assert data.labels is not None
    images = torch.stack([data.images[data.labels == label][:6] for label in (0, 1)])
    drawn = torch.Generator().manual_seed(1)
    starts = (
        torch.rand(2, 1, 8, 8, generator=drawn),
        torch.rand(2, 1, 8, 8, generator=drawn),
    )
    chosen = PairSettings(steps=30, bound=0.6, cost=0.1, patience=2)
    access = access_to(net)
    draw = torch.Generator().manual_seed(3)
    found = two_way(access, net, images, (0, 1), starts, chosen, draw)
    expected = both(net, images, starts, chosen)
    assert [trigger.reached for trigger in found] == [math.isfinite(size) for size in expected]
    assert any(trigger.reached for trigger in found)
    for trigger, size in zip(found, expected, strict=True):
        if trigger.reached:
            # a best mask is the one after the step that was judged
            assert trigger.size == pytest.approx(size, rel=0.1)
    assert access.images_processed == 30 * 12
