from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.access.granted import Access
from harness.learn.images import ImageSet, to_float
from plugins.parts.inversion import Endless
from plugins.parts.pair_inversion import NOISE, PairSettings, PatchSearch, two_way
from plugins.parts.pair_search import Pictures
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


def of_classes(data: ImageSet, count: int) -> Pictures:
    """The first images of each class."""
    assert data.labels is not None
    images = [data.images[data.labels == label][:count] for label in range(3)]
    return Pictures(range(3), torch.stack(images))


def searched(
    access: Access, net: nn.Module, images: Pictures, pairs: Any, chosen: PairSettings
) -> PatchSearch:
    search = PatchSearch(access, net, images, pairs, chosen, "s")
    for _ in range(chosen.steps):
        search.epoch()
    return search


def one_pair(access: Access, net: nn.Module, images: Tensor, pair: Any, chosen: Any) -> float:
    """MOTH's search for one pair, step by step: the distance, infinite where it failed."""
    source, target = pair
    draw = access.generator(f"s/{source}/{target}")
    mask, pattern = (
        free(torch.rand(1, 8, 8, generator=draw)),
        free(torch.rand(1, 8, 8, generator=draw)),
    )
    stream = Endless(torch.arange(len(images)), chosen.batch, draw)
    adam = torch.optim.Adam([mask, pattern], lr=0.1, betas=(0.5, 0.9))
    cost, smallest = Cost(chosen.cost, chosen.patience, chosen.up), math.inf
    for _ in range(chosen.steps):
        hits, sizes = [], []
        for _ in range(len(images) // chosen.batch):
            batch = to_float(images[next(stream)])
            logits = net((1 - shown(mask)) * batch + shown(mask) * shown(pattern))
            wanted = torch.full((len(batch),), target)
            size = shown(mask).sum()
            adam.zero_grad()
            (functional.cross_entropy(logits, wanted) + cost.cost * size).backward()
            hits.append(float((logits.argmax(1) == wanted).float().mean()))
            sizes.append(float(size.detach()))
            adam.step()
        won = float(np.mean(hits)) >= chosen.bound
        if won:
            smallest = min(smallest, float(np.mean(sizes)))
        cost.move(won)
    return smallest


def test_the_distance_restated() -> None:
    net, images = victim(norms=False), of_classes(pictures(60), 17)
    chosen = PairSettings(steps=25, batch=5, cost=0.02, patience=3)
    pairs = [(0, 1), (0, TARGET), (1, TARGET)]
    access = access_to(net)
    search = searched(access, net, images, pairs, chosen)
    expected = []
    for pair in pairs:
        expected.append(one_pair(access_to(net), net, images.images[pair[0]], pair, chosen))
    assert np.isfinite(expected).any()
    np.testing.assert_allclose(search.distances, expected, rtol=1e-3)
    assert search.steps == [25 * 3] * 3
    assert access.images_processed == 3 * 25 * 15


def test_a_distance_is_summed_over_the_colours() -> None:
    """So is the size that its cost weighs; and masks are one channel."""
    chosen = PairSettings(steps=2, bound=0.01)
    assert chosen.rule(3).cost == pytest.approx(3 * chosen.rule(1).cost)
    net = Coloured()
    access = access_to(net)
    access._context = replace(access._context, task=replace(Tiny.task, channels=3))
    search = searched(access, net, of_classes(pictures(30, channels=3), 10), [(0, 1)], chosen)
    (trigger,) = search.found
    assert trigger.mask.shape == (1, 8, 8)
    # the mask that is kept is a step further
    assert search.distances[0] == pytest.approx(3 * trigger.size, rel=0.1)


class Coloured(nn.Module):
    """Answers 1 to everything."""

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1).sum(1, keepdim=True)
        return flat * 1e-3 + torch.tensor([[0.0, 1.0, 0.0]])


def test_a_pair_is_measured_alike_whatever_others_are() -> None:
    net, images = victim(), of_classes(pictures(60), 20)
    chosen = PairSettings(steps=6, batch=10, bound=0.5)
    few = Pictures([1], images.images[1:2])
    alone = searched(access_to(net), net, few, [(1, 2)], chosen).distances
    pairs = [(0, 2), (1, 2), (2, 0)]
    among = searched(access_to(net), net, images, pairs, chosen).distances
    assert math.isfinite(alone[0])
    np.testing.assert_allclose(alone[0], among[1], rtol=1e-3)


def test_a_backdoor_is_a_short_way_and_failures_are_told() -> None:
    net, images = victim(), of_classes(pictures(60), 20)
    chosen = PairSettings(steps=60, batch=10)
    pairs = [(0, TARGET), (TARGET, 0)]
    to_target, elsewhere = searched(access_to(net), net, images, pairs, chosen).distances
    assert to_target < 0.5 * elsewhere
    hopeless = PairSettings(steps=1, batch=10, bound=1.0)
    failed = searched(access_to(net), net, images, [(TARGET, 0)], hopeless)
    assert failed.distances == [math.inf]


def test_what_is_found_is_asked_about_other_images() -> None:
    net, images = victim(), of_classes(pictures(60), 10)
    search = searched(access_to(net), net, images, [(0, TARGET)], PairSettings(steps=30, batch=10))
    others = of_classes(pictures(120, 60), 20)
    answer = search.further(others)
    (trigger,) = search.found
    clean = to_float(others.images[0])
    stamped = (1 - trigger.mask) * clean + trigger.mask * trigger.pattern
    turned = (net.eval()(stamped).argmax(1) == TARGET).float().mean()
    assert answer.success[0] == pytest.approx(float(turned))
    assert answer.success[0] > 0.5
    assert 0 < answer.similarity[0] < 1


def test_a_pair_that_has_settled_ends() -> None:
    net, images = victim(), of_classes(pictures(60), 10)
    pairs = [(0, TARGET), (TARGET, 0)]
    chosen = PairSettings(steps=150, batch=10, patience=1, settled=0.5, stop=3)
    search = PatchSearch(access_to(net), net, images, pairs, chosen, "s")
    while search.running and search.steps[0] < chosen.steps:
        search.epoch()
    assert search.running == []
    assert len(set(search.steps)) == 2


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
