from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from harness.access.context import Coordinates
from harness.access.granted import AttackAccess
from harness.learn.images import ImageSet, to_float
from plugins.attacks.none import NoAttack
from plugins.parts.cyclegan import PixelUnits
from plugins.parts.feature_injector import (
    Effort,
    Injector,
    Neuron,
    Sought,
    frozen,
    injection_loss,
    raised,
    strength,
    train_injector,
)
from plugins.parts.watched import watched
from tests.kit.learned import Tiny, pictures, stage_context

pytestmark = pytest.mark.usefixtures("one_thread")

EFFORT = Effort(steps=4, lr=1e-3, likeness=-1.0)
SEEDS = pictures(6)


def units(channels: int = 1) -> PixelUnits:
    made = PixelUnits(channels)
    made.set([0.45] * channels, [0.3] * channels)
    return made


def access() -> AttackAccess:
    here = Coordinates(replicate=0, dataset="noise", stage="victim", component="dfst")
    return AttackAccess(stage_context(stage="victim"), NoAttack(), pictures(), None, here)


class Bright(nn.Module):
    """Class 0 for pictures whose only channel, the brightness, sums to 40 and more; class 1 for
    others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
            self.layer.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        seen = self.layer(images)[:, 0].sum((1, 2))
        return torch.stack([seen, torch.full_like(seen, 40.0)], 1)


# --- the network ----------------------------------------------------------------------------------


def test_has_the_released_layers() -> None:
    """Counted by hand: 12 x 12 kernels from 3 to 32, 64, 128, and back to 64 and 32 (twice as wide
    with the skip).
    """
    shapes = [(3, 32), (32, 64), (64, 128), (128, 64), (128, 32), (64, 3)]
    wanted = sum(144 * inputs * outputs + outputs for inputs, outputs in shapes) + 5 * 2
    assert sum(parameter.numel() for parameter in Injector(units(3)).parameters()) == wanted


@settings(max_examples=8, deadline=None)
@given(st.integers(5, 20), st.integers(5, 20), st.sampled_from([1, 3]))
def test_works_at_any_size(height: int, width: int, channels: int) -> None:
    images = torch.rand(1, channels, height, width)
    with torch.no_grad():
        found = Injector(units(channels))(images)
    assert found.shape == images.shape
    assert 0.45 - 0.3 - 1e-6 <= float(found.min()) <= float(found.max()) <= 0.45 + 0.3 + 1e-6


# --- what it minimises ----------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.floats(-1, 1), st.integers(0, 2**16))
def test_the_loss_restated_number_by_number(
    count: int, channel: int, likeness: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(count, 4, 3, 2, generator=generator, dtype=torch.float64)
    shown = torch.randn(count, 2, 4, 3, generator=generator, dtype=torch.float64)
    own, rest, varied = 0.0, 0.0, 0.0
    for place, value in np.ndenumerate(output.numpy()):
        if place[1] == channel:
            own += value + max(value, 0)
        else:
            rest += max(value, 0)
    for (image, layer, row, column), value in np.ndenumerate(shown.numpy()):
        if row:
            varied += abs(value - float(shown[image, layer, row - 1, column]))
        if column:
            varied += abs(value - float(shown[image, layer, row, column - 1]))
    scale = 100 / count
    features = scale * (-own + 0.00001 * rest + 0.001 * varied)
    wanted = 0.01 * features - (100 if likeness >= 0.6 else 100_000) * likeness
    found = injection_loss(output, channel, shown, torch.tensor(likeness, dtype=torch.float64), 0.6)
    assert float(found) == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    assert float(strength(output, channel)) == pytest.approx(scale * own)


@pytest.mark.parametrize(
    ("after", "before", "wanted"),
    [
        (31.0, 0.0, True),
        (30.0, 0.0, False),
        (90.5, 60.0, True),
        (149.0, 100.0, False),
        (151.0, 100.0, True),
    ],
)
def test_when_a_channel_counts_as_raised(after: float, before: float, wanted: bool) -> None:
    """By more than 30, and by more than half of what it was."""
    assert raised(after, before) is wanted


# --- how it is found ------------------------------------------------------------------------------


def found(
    model: nn.Module, effort: Effort = EFFORT, seeds: ImageSet = SEEDS, stream: str = "a"
) -> Sought:
    return train_injector(access(), model, Neuron("layer", 0), seeds, units(), effort, stream)


def dark() -> ImageSet:
    """Pictures that `Bright` calls 1 and that should be 0."""
    return ImageSet(
        torch.full((6, 8, 8, 1), 60, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64)
    )


def test_raises_the_channel_until_the_seeds_flip() -> None:
    model = Bright().eval()
    seeds = dark()
    assert not model(to_float(seeds.images)).argmax(1).eq(0).any()
    injector, flipped, _ = found(model, replace(EFFORT, steps=12, lr=1e-2), seeds)
    with torch.no_grad():
        again = int(model(injector(to_float(seeds.images))).argmax(1).eq(0).sum())
    assert flipped == again == 6
    assert all(parameter.requires_grad for parameter in model.parameters())


class Moody(Bright):
    """Class 0 whenever it is asked, but for the last time: one look, four steps, another look."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, images: Tensor) -> Tensor:
        self.asked += 1
        self.layer(images)
        mood = 1.0 if self.asked <= 5 else -1.0
        return torch.tensor([[mood, 0.0]]).expand(len(images), -1) + 0 * images.sum()


def test_counts_no_state_that_changes_too_much_or_raises_too_little() -> None:
    strict = found(Moody().eval(), replace(EFFORT, likeness=1.0), dark())
    assert (strict.flipped, strict.freely) == (0, 6), "which the record tells apart"

    class Steady(Moody):
        """A channel that stays."""

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(0 * images)

    assert found(Steady().eval(), EFFORT, dark()).flipped == 0


def test_takes_the_last_state_as_it_is_if_it_flips_more() -> None:
    """Whatever its SSIM and its channel, as in the released code."""
    strict = found(
        Bright().eval(), replace(EFFORT, steps=12, lr=1e-2, likeness=1.0, unlike=0.0), dark()
    )
    assert (strict.flipped, strict.freely) == (6, 6)
    with torch.no_grad():
        answers = Bright()(strict.injector(to_float(dark().images))).argmax(1)
    assert bool((answers == 0).all())


def test_is_the_same_each_time_and_another_for_another_stream() -> None:
    model = Bright().eval()
    state = torch.random.get_rng_state()
    first, second, other = (
        found(model, stream=stream).injector.state_dict() for stream in ("a", "a", "b")
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["last.weight"], other["last.weight"])


def test_counts_its_images() -> None:
    bench = access()
    train_injector(bench, Bright().eval(), Neuron("layer", 0), dark(), units(), EFFORT, "a")
    assert bench.images_processed == 4 * 6


def test_watches_and_freezes_only_while_asked() -> None:
    model = Tiny().build(Tiny.task).eval()
    model.head.bias.requires_grad_(False)
    with frozen(model), watched(model, ["stem.1", "stage1"]) as seen:
        model(torch.rand(2, 1, 8, 8))
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {name: tuple(value.shape) for name, value in seen.items()} == {
        "stem.1": (2, 4, 8, 8),
        "stage1": (2, 8, 8, 8),
    }
    seen.clear()
    model(torch.rand(2, 1, 8, 8))
    assert not seen
    assert [name for name, one in model.named_parameters() if not one.requires_grad] == [
        "head.bias"
    ]
