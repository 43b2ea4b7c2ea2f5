from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plugins.attacks.trojan_sq import TrojanSquare
from plugins.models.blocks import PointwiseLinear
from plugins.parts.neurons import Neurons, excite, some_images
from tests.kit.learned import crafting, pictures


class Weighing(nn.Module):
    """A network whose last layer takes the mean of each channel; `head`: a row for each label."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.head = nn.Linear(len(rows[0]), len(rows), bias=False)
        self.head.weight.data = torch.tensor(rows)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(images.mean((2, 3)))
        return scores


class Bench:
    """What `excite` asks for."""

    def __init__(self) -> None:
        self.record: dict[str, float] = {}
        self.images = 0

    def tick(self, images: int = 0) -> None:
        self.images += images

    def steps(self, count: int, keep: Mapping[str, object]) -> Iterable[int]:
        return range(count)

    def anatomy(self, network: nn.Module) -> Any:
        class Named:
            head = "head"

        return Named


def climbed(
    network: nn.Module, images: Tensor, start: Tensor, steps: int, **given: Any
) -> tuple[Tensor, Bench]:
    bench = Bench()
    neurons = Neurons(
        network, network.get_submodule("head"), torch.tensor(given.pop("chosen", [0]))
    )
    found = excite(
        bench,
        neurons,
        images,
        start,
        given.pop("stamp", lambda images, pattern: images + pattern),
        given.pop("keep", lambda pattern: pattern),
        steps,
        given.pop("step", 0.1),
    )
    return found, bench


def test_the_best_connected_come_first() -> None:
    network = Weighing([[1.0, -5.0, 0.5, 0.0], [1.0, 1.0, 3.0, 0.0]])

    def chosen(count: int, label: int | None = None) -> list[int]:
        return Neurons.connected(Bench(), network, count, label).chosen.tolist()

    assert chosen(2) == [1, 2], "6 and 3.5 in absolute value"
    assert chosen(2, label=0) == [0, 2], "1 and 0.5, the sign counts"
    assert chosen(9) == [1, 2, 0, 3]


def test_activation_is_what_the_last_layer_takes() -> None:
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    network = Weighing([[1.0, 1.0, 1.0]])
    found = Neurons(network, network.head, torch.tensor([2, 0])).activation(images)
    torch.testing.assert_close(found, images[:, [2, 0]].mean())


def test_activation_of_a_head_for_every_pixel_is_averaged() -> None:
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    network = nn.Sequential()
    network.add_module("head", PointwiseLinear(3, 2))
    found = Neurons(network, network.get_submodule("head"), torch.tensor([1])).activation(images)
    torch.testing.assert_close(found, images[:, 1].mean())


def test_no_hook_is_left_behind() -> None:
    network = Weighing([[1.0, 1.0, 1.0]])
    climbed(network, torch.zeros(1, 3, 2, 2), torch.zeros(3, 2, 2), 3)
    assert not network.head._forward_pre_hooks


def test_steps_restated() -> None:
    """Where the slope is constant a step is as long as its rate wherever the neuron looks, and
    nothing elsewhere.
    """
    start = torch.zeros(3, 2, 2)
    found, bench = climbed(
        Weighing([[1.0, 1.0, 1.0]]), torch.zeros(4, 3, 2, 2), start, 4, chosen=[1]
    )
    length = 0.1 * (1 + 3 / 4 + 2 / 4 + 1 / 4)
    torch.testing.assert_close(found[1], torch.full((2, 2), length))
    assert not found[[0, 2]].any()
    assert bench.images == 16
    assert bench.record == {"activation_before": 0.0, "activation_after": pytest.approx(length)}


def test_unequal_slopes_keep_their_ratio() -> None:
    """The mean size over what is reached is the rate."""

    def stamp(images: Tensor, pattern: Tensor) -> Tensor:
        return images + pattern * torch.tensor([1.0, 3.0, 0.0, 0.0]).view(2, 2)

    found, _ = climbed(
        Weighing([[1.0, 1.0, 1.0]]), torch.zeros(1, 3, 2, 2), torch.zeros(3, 2, 2), 1, stamp=stamp
    )
    torch.testing.assert_close(found[0].flatten(), torch.tensor([0.05, 0.15, 0.0, 0.0]))


def test_keeps_the_best_on_the_way() -> None:
    """A rule that throws the pattern down at the end does not lose what was found before."""
    calls: list[int] = []

    def keep(pattern: Tensor) -> Tensor:
        calls.append(0)
        return pattern if len(calls) < 3 else pattern - 5

    found, bench = climbed(
        Weighing([[1.0]]), torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2), 4, keep=keep
    )
    torch.testing.assert_close(found, torch.full((1, 2, 2), 0.1 + 0.075))
    assert bench.record["activation_after"] == pytest.approx(0.175)


def test_a_dead_neuron_moves_nothing() -> None:
    start = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(0))
    found, _ = climbed(
        Weighing([[1.0, 1.0, 1.0]]),
        torch.zeros(1, 3, 2, 2),
        start,
        3,
        stamp=lambda images, pattern: images + 0 * pattern,
    )
    assert torch.equal(found, start)


def test_images_are_drawn_from_the_attacker_s(monkeypatch: pytest.MonkeyPatch) -> None:
    train = pictures(60)
    access = crafting(TrojanSquare(), train, None)
    drawn = some_images(access, 10)
    levels = (drawn * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    found = [int((train.images == image).flatten(1).all(1).nonzero()) for image in levels]
    assert len(set(found)) == 10
    assert found != sorted(found)
    assert len(some_images(access, 1000)) == 60
