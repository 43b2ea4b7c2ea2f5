from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from harness.learn.images import ImageSet
from plugins.attacks.smooth import Smooth
from tests.kit.learned import attacked, clean_network, crafting, pictures
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")


class Affine(nn.Module):
    """Logits that are linear in the pixels of 1x4x4 images."""

    def __init__(self, rows: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.rows, self.bias = rows, bias

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.rows.T + self.bias


class Bench:
    """What the steps ask for."""

    def __init__(self) -> None:
        self.images = 0

    def tick(self, images: int = 0, done: int | None = None, of: int = 0) -> None:
        self.images += images


def affine(seed: int = 0) -> Affine:
    generator = torch.Generator().manual_seed(seed)
    return Affine(torch.randn(3, 16, generator=generator), torch.randn(3, generator=generator))


def low_passed(pattern: np.ndarray, deviation: int) -> np.ndarray:
    """Every value is the weighted mean of its surroundings, counted from 14 before to 15 after at
    the published 6.
    """
    taps = 5 * deviation
    weights = np.array(
        [math.exp(-(((place - (taps - 1) / 2) / deviation) ** 2) / 2) for place in range(taps)]
    )
    weights /= weights.sum()
    before = math.ceil(taps / 2) - 1
    found = np.zeros_like(pattern)
    for channel, row, column in np.ndindex(pattern.shape):
        for down in range(taps):
            for right in range(taps):
                place = row + down - before, column + right - before
                if 0 <= place[0] < pattern.shape[1] and 0 <= place[1] < pattern.shape[2]:
                    found[channel, row, column] += (
                        weights[down] * weights[right] * pattern[channel, *place]
                    )
    return found


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(3, 7), st.integers(3, 7))
def test_the_low_pass_restated(seed: int, deviation: int, height: int, width: int) -> None:
    pattern = np.random.default_rng(seed).standard_normal((2, height, width))
    found = Smooth(deviation=deviation).low_pass(torch.from_numpy(pattern))
    np.testing.assert_allclose(found, low_passed(pattern, deviation), atol=1e-12)


def test_the_published_low_pass_has_thirty_taps() -> None:
    """Coordinates (i - 14.5) * 5 and a deviation of 30 are the same kernel; a point is smeared 14
    back and 15 ahead.
    """
    point = torch.zeros(1, 64, 64, dtype=torch.float64)
    point[0, 32, 32] = 1
    found = Smooth().low_pass(point)[0]
    kernel = torch.exp(-((((torch.arange(30, dtype=torch.float64) - 14.5) * 5) / 30) ** 2) / 2)
    kernel = kernel / kernel.sum()
    torch.testing.assert_close(
        found[17:47, 17:47], kernel.flip(0)[:, None] * kernel.flip(0)[None, :]
    )
    assert int((found > 0).sum()) == 900


@pytest.mark.oracle
def test_the_released_perturbation_is_smooth_and_scaled_alike() -> None:
    released = torch.from_numpy(
        oracle("attacks/additive_triggers")["freq_smooth_universal"][0]
    ).permute(2, 0, 1)
    attack = Smooth()
    assert (float(released.min()), float(released.max())) == (0.0, pytest.approx(attack.bound))
    rough = torch.rand(released.shape, generator=torch.Generator().manual_seed(0))
    made = attack.low_pass(attack.low_pass(rough))
    made = attack.bound * (made - made.min()) / (made.max() - made.min())

    def roughness(light: Tensor) -> float:
        return float(light.diff(dim=1).abs().mean() + light.diff(dim=2).abs().mean())

    assert 0.3 < roughness(released) / roughness(made) < 3


@pytest.mark.parametrize("own", [0, 1])
def test_a_step_lands_just_behind_the_border(own: int) -> None:
    """Between two labels of linear scores one step is enough: to the border, and 2 % more."""
    network = affine()
    network.bias = torch.tensor([50.0, 50.0, -50.0])
    network.bias[own] += 20
    start, label = torch.full((1, 4, 4), 0.5), 1 - own
    bench = Bench()
    attack = Smooth(scores="logits")
    found = attack._deepfool(bench, network, start, own, label)
    assert found is not None
    slope = (network.rows[label] - network.rows[own]).view(1, 4, 4)
    scores = network(start[None])[0]
    gap = float(scores[own] - scores[label])
    torch.testing.assert_close(found, 1.02 * gap * slope / (slope**2).sum(), rtol=1e-4, atol=1e-5)
    assert bench.images == 1
    assert int(network((start + found)[None])[0].argmax()) == label


def test_softmax_scores_restated() -> None:
    """The same way step by step, in double precision, with the slope of the softmax written out."""
    network = affine(3)
    start = torch.full((1, 4, 4), 0.5)
    own = int(network(start[None])[0].argmax())
    label = (own + 1) % 3
    found = Smooth()._deepfool(Bench(), network, start, own, label)
    rows, bias = network.rows.double().numpy(), network.bias.double().numpy()
    begin = start.double().numpy().ravel()
    moved = np.zeros(16)
    for _ in range(198):
        logits = rows @ (begin + 1.02 * moved) + bias
        if logits.argmax() == label:
            break
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        slopes = shares[:, None] * (rows - shares @ rows)
        slope = slopes[label] - slopes[own]
        moved += abs(shares[label] - shares[own]) / (slope @ slope) * slope
    assert found is not None
    np.testing.assert_allclose(found.ravel(), 1.02 * moved, rtol=1e-3, atol=1e-4)


def test_an_image_that_cannot_be_pushed_is_passed_over() -> None:
    network = affine()
    network.rows = torch.zeros(3, 16)
    network.bias = torch.tensor([1.0, 0.0, 0.0])
    attack, start = Smooth(), torch.full((1, 4, 4), 0.5)
    assert attack._deepfool(Bench(), network, start, 0, 1) is None
    light = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(attack._pushed(Bench(), network, start, light, 1), light)


@pytest.mark.parametrize(("steps", "reached"), [(2, False), (3, True)])
def test_a_way_that_takes_all_steps_but_one_is_not_taken(steps: int, reached: bool) -> None:
    """One step is needed: released code takes the result of fewer than `steps` - 1."""
    network = affine()
    network.bias = torch.tensor([70.0, 50.0, -50.0])
    found = Smooth(scores="logits", steps=steps)._deepfool(
        Bench(), network, torch.full((1, 4, 4), 0.5), 0, 1
    )
    assert (found is not None) is reached


def test_one_image_moves_the_perturbation_as_released() -> None:
    network = affine()
    network.bias = torch.tensor([70.0, 50.0, -50.0])
    attack = Smooth(scores="logits", deviation=1)
    image, light = (
        torch.full((1, 4, 4), 0.5),
        0.1 * torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0)),
    )
    found = attack._pushed(Bench(), network, image, light, 1)
    push = attack._deepfool(Bench(), network, image + light, 0, 1)
    assert push is not None
    smooth = low_passed(light.numpy() + low_passed(push.numpy(), 1), 1)
    expected = 0.2 * (smooth - smooth.min()) / (smooth.max() - smooth.min())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_image_that_is_misclassified_already_moves_nothing() -> None:
    network = affine()
    image = torch.full((1, 4, 4), 0.5)
    clean = int(network(image[None])[0].argmax())
    other, label = {0, 1, 2} - {clean}
    light = 100 * (network.rows[other] - network.rows[clean]).view(1, 4, 4)
    assert int(network((image + light)[None])[0].argmax()) != clean
    assert torch.equal(Smooth()._pushed(Bench(), network, image, light, label), light)


class Bright(nn.Module):
    """Three labels by the mean brightness, with the borders at 0.5 and 0.6."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((1, 2, 3))
        return 20 * torch.stack([0.5 - mean, torch.zeros_like(mean), mean - 0.6], 1)


@pytest.mark.parametrize(("towards", "label"), [("dominant", 1), ("target", 2)])
def test_goes_on_to_the_commonest_wrong_label_as_released(towards: Any, label: int) -> None:
    """All images are dark: pushed to the brightest label, most stop at the middle one."""
    train = ImageSet(
        torch.full((20, 8, 8, 1), 112, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64)
    )
    attack = Smooth(target=2, pictures=20, deviation=1, towards=towards, scores="logits")
    access = crafting(attack, train, {"benign": Bright()})
    trigger = attack.trigger(access.task)
    attack.craft(access, trigger)
    assert access.record["label"] == label
    assert access.record["flips"] == 1
    assert float(trigger.get_buffer("light").max()) == pytest.approx(0.2)


def test_keeps_the_best_of_its_passes() -> None:
    attack = Smooth(pictures=8, passes=3, deviation=1, flips=1.0, bound=0.02)
    access = crafting(attack, pictures(60), {"benign": clean_network()})
    trigger = attack.trigger(access.task)
    attack.craft(access, trigger)
    light = trigger.get_buffer("light")
    assert (float(light.min()), float(light.max())) == (0.0, pytest.approx(0.02))
    assert access.record["flips"] < 1


def test_a_victim_is_made() -> None:
    attack = Smooth.model_validate_json(
        json.dumps({"poison_rate": 0.3, "pictures": 8, "passes": 1, "deviation": 1, "bound": 0.5})
    )
    accuracy, success = attacked(attack, epochs=25, parts={"benign": clean_network()})
    assert accuracy > 0.85
    assert success > 0.8


@pytest.mark.parametrize(
    "given", [{"bound": 0.0}, {"flips": 1.5}, {"steps": 1}, {"towards": "any"}, {"passes": 0}]
)
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Smooth(**given)
