from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from harness import Incompatible
from harness.access.granted import PartAccess
from harness.learn.images import ImageSet, to_float, to_uint8
from harness.learn.recipes import Recipe
from plugins.parts.cyclegan import Generator, InstanceNorm, ReflectedConv, discriminator
from plugins.parts.style_generator import Game, StyleGenerator, fill, measure
from plugins.parts.sunset import sunset
from tests.kit.learned import Tiny, stage_context
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")

CIFAR = ((125.307, 122.95, 113.865), (62.9932, 62.0887, 66.7048))
QUICK: dict[str, Any] = {"per_class": 2, "epochs": 1, "batch": 3}


def drawn(count: int, side: int = 10, channels: int = 1, seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, side, side, channels), generator=generator).to(torch.uint8)
    return ImageSet(images, torch.arange(count) % 3)


def access_to(data: ImageSet, style: ImageSet | None = None) -> PartAccess:
    _, height, width, channels = data.images.shape
    task = replace(Tiny.task, height=height, width=width, channels=channels)
    parts: dict[str, Callable[[], Any]] = {} if style is None else {"style": lambda: style}
    around = replace(stage_context(stage="part"), task=task, recipe=None, model=None, parts=parts)
    return PartAccess(around, frozenset({"train"}), {"train": lambda: data})


def made(part: StyleGenerator, data: ImageSet, style: ImageSet | None = None) -> Generator:
    module = part.make(access_to(data, style))
    assert isinstance(module, Generator)
    assert not module.training
    return module


def official(path: Path) -> Generator:
    """The released generator, from its weights under Keras's names."""
    generator = Generator(3)
    measure(generator, torch.zeros(1, 1, 1, 3, dtype=torch.uint8), *CIFAR)
    fill(generator, path)
    return generator.eval()


# --- the network ----------------------------------------------------------------------------------


def written(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **{name: np.asarray(array) for name, array in arrays.items()})
    return path


@pytest.mark.oracle
@pytest.mark.parametrize("pictures", ["rand", "smooth"])
def test_translates_as_the_released_generator(pictures: str, tmp_path: Path) -> None:
    recorded, inputs = oracle("attacks/dfst_cyclegan"), oracle("attacks/inputs")
    weights = {name: array for name, array in recorded.items() if name.startswith("w/")}
    generator, images = (
        official(written(tmp_path / "w.npz", weights)),
        to_float(torch.from_numpy(inputs[f"x_{pictures}"])),
    )
    with torch.no_grad():
        inner = generator.translate(generator.units.normalised(images)).permute(0, 2, 3, 1)
        found = to_uint8(generator(images)).numpy().astype(int)
    np.testing.assert_allclose(inner, recorded[f"tanh_{pictures}"], atol=1e-3)
    assert abs(found - recorded[f"out_{pictures}"]).max() <= 1
    assert found.min() >= 46
    assert found.max() <= 188


def test_has_as_many_parameters_as_the_released_one() -> None:
    assert sum(parameter.numel() for parameter in Generator(3).parameters()) == 489_235


def test_instance_norm_restated_number_by_number() -> None:
    images = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    norm = InstanceNorm()
    with torch.no_grad():
        norm.gamma.fill_(1.5)
        norm.beta.fill_(-0.25)
    found = norm(images)
    for image, result in zip(images.double().tolist(), found.tolist(), strict=True):
        flat = [value for plane in image for row in plane for value in row]
        mean = sum(flat) / 40
        deviation = math.sqrt(sum((value - mean) ** 2 for value in flat) / 40)
        wanted = [1.5 * (value - mean) / (deviation + 0.001) - 0.25 for value in flat]
        assert [value for plane in result for row in plane for value in row] == pytest.approx(
            wanted, abs=1e-5
        )


def test_instance_norm_of_a_uniform_image_has_a_slope() -> None:
    images = torch.zeros(1, 2, 3, 3, requires_grad=True)
    InstanceNorm()(images).square().sum().backward()
    assert images.grad is not None
    assert bool(images.grad.isfinite().all())


def test_borders_are_reflected() -> None:
    layer = ReflectedConv(1, 1, 3)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, 0, 0, 0] = 1.0
    image = torch.arange(9.0).view(1, 1, 3, 3)
    np.testing.assert_array_equal(layer(image)[0, 0].detach(), [[4, 3, 4], [1, 0, 1], [4, 3, 4]])


def test_the_image_is_read_from_the_last_tanh_in_units_of_the_training_pictures() -> None:
    """mean + std tanh, clipped and cut: 62.3 to 188.3 in red, and not 0 to 255."""
    generator = Generator(3)
    measure(generator, torch.zeros(1, 1, 1, 3, dtype=torch.uint8), *CIFAR)
    values = torch.linspace(-5, 5, 11).view(1, 1, 1, -1).expand(1, 3, 2, -1)
    found = to_uint8(generator.units.pixels(torch.tanh(values)))
    for channel, (mean, std) in enumerate(zip(*CIFAR, strict=True)):
        for place in range(11):
            level = math.floor(min(255.0, max(0.0, std * math.tanh(place - 5) + mean)))
            assert int(found[0, 0, place, channel]) == level
    images = torch.rand(2, 3, 4, 4)
    shown = generator.units.normalised(images)
    assert float(shown[1, 2, 3, 1]) == pytest.approx(
        (255 * float(images[1, 2, 3, 1]) - 113.865) / 66.7048, abs=1e-5
    )
    torch.testing.assert_close(generator.units.pixels(shown), images)
    span = max((255 - m) / s for m, s in zip(*CIFAR, strict=True)) + max(
        m / s for m, s in zip(*CIFAR, strict=True)
    )
    assert float(generator.units.span) == pytest.approx(span)


@settings(max_examples=8, deadline=None)
@given(st.integers(10, 64), st.integers(10, 64), st.sampled_from([1, 3]))
def test_works_at_any_size_with_one_channel_or_three(
    height: int, width: int, channels: int
) -> None:
    images = torch.rand(1, channels, height, width)
    with torch.no_grad():
        assert Generator(channels)(images).shape == images.shape
        judged = discriminator(channels)(images)
    patches = [size // 2 + 1 for size in (height, width)]
    patches = [((patch // 2 + 1) // 2 + 1) + 2 for patch in patches]
    assert judged.shape == (1, 1, *patches)
    assert 0 <= float(judged.min()) <= float(judged.max()) <= 1


# --- the game -------------------------------------------------------------------------------------


def test_the_losses_restated() -> None:
    """The judges move twice each, on true pictures and then on translated ones; then the
    generators' loss is taken.
    """
    torch.manual_seed(0)
    game = Game(1)
    game.forth.units.set([0.4], [0.2])
    other = copy.deepcopy(game)
    images, style = torch.rand(2, 2, 1, 12, 12)
    step = torch.optim.Adam(game.judges.parameters(), 1e-3, (0.5, 0.999))
    found = game.play(images, style, step, 2.0, 0.3)

    a, b = (images - 0.4) / 0.2, (style - 0.4) / 0.2
    to_style, back = other.forth.layers(a), other.back.layers(b)
    for judge, real, fake in ((other.judges[0], a, back), (other.judges[1], b, to_style)):
        own = torch.optim.Adam(judge.parameters(), 1e-3, (0.5, 0.999))
        for pictures, answer in ((real, 1), (fake.detach(), 0)):
            own.zero_grad()
            ((judge(pictures) - answer) ** 2).mean().backward()
            own.step()
    wanted = ((other.judges[0](back) - 1) ** 2).mean() + (
        (other.judges[1](to_style) - 1) ** 2
    ).mean()
    wanted = wanted + 2 * (
        (other.back.layers(to_style) - a).abs().mean() + (other.forth.layers(back) - b).abs().mean()
    )
    wanted = wanted + 0.3 * (
        (other.back.layers(a) - a).abs().mean() + (other.forth.layers(b) - b).abs().mean()
    )
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    found.backward()
    assert all(
        parameter.grad is not None
        for net in (game.forth, game.back)
        for parameter in net.parameters()
    )
    assert not any(parameter.requires_grad for parameter in game.judges.parameters())


def test_is_the_same_each_time_and_leaves_torch_s_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, second = (
        made(StyleGenerator(**QUICK), drawn(9, channels=3)).state_dict() for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_counts_the_pictures_of_both_sides() -> None:
    access = access_to(drawn(30))
    StyleGenerator(**QUICK).make(access)
    assert access.images_processed == 2 * 3 * 2


def test_units_are_those_of_the_training_pictures_unless_given() -> None:
    data = drawn(20, channels=3)
    part = StyleGenerator(per_class=1, epochs=0)
    flat = data.images.reshape(-1, 3).double().numpy()
    units = made(part, data).units
    np.testing.assert_allclose(units.mean.flatten() * 255, flat.mean(0), atol=1e-4)
    np.testing.assert_allclose(units.std.flatten() * 255, flat.std(0), atol=1e-4)
    given_units = made(
        StyleGenerator(epochs=0, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0)), data
    ).units
    assert (given_units.std.flatten() * 255).tolist() == pytest.approx([4, 5, 6])
    with pytest.raises(ValueError, match="one number for each channel"):
        made(StyleGenerator(epochs=0, mean=(1.0,)), data)
    with pytest.raises(ValueError, match="above 0"):
        made(StyleGenerator(epochs=0, std=(1.0, 0.0, 1.0)), data)


def test_judges_may_be_narrow() -> None:
    assert sum(parameter.numel() for parameter in discriminator(3, 16).parameters()) < 200_000
    assert discriminator(1, 16)(torch.rand(2, 1, 32, 32)).shape == (2, 1, 7, 7)
    assert StyleGenerator(**StyleGenerator.presets["fast"]).judge_width == 16


def test_says_what_is_too_small() -> None:
    with pytest.raises(Incompatible, match="10 x 10"):
        made(StyleGenerator(**QUICK), drawn(6, side=9))


def test_its_structure_takes_its_state() -> None:
    part, data = StyleGenerator(**{**QUICK, "epochs": 0}), drawn(6)
    state = torch.random.get_rng_state()
    structure = part.build(replace(Tiny.task, channels=1), None)
    assert torch.equal(torch.random.get_rng_state(), state)
    structure.load_state_dict(made(part, data).state_dict())


# --- a generator of one's own ---------------------------------------------------------------------


def keras(generator: Generator) -> dict[str, np.ndarray]:
    """The arrays under names as Keras gives them, numbered with gaps, in an order of their own."""
    convolutions = [layer for layer in generator.modules() if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in generator.modules() if isinstance(layer, InstanceNorm)]
    arrays = {}
    for number, (layer, norm) in enumerate(zip(convolutions, norms, strict=True), start=7):
        assert layer.bias is not None
        arrays[f"conv2d_{number}/kernel"] = layer.weight.detach().permute(2, 3, 1, 0).numpy()
        arrays[f"conv2d_{number}/bias"] = layer.bias.detach().numpy()
        arrays[f"model/instance_normalization_{3 * number}/gamma:0"] = norm.gamma.detach().numpy()
        arrays[f"model/instance_normalization_{3 * number}/beta:0"] = norm.beta.detach().numpy()
    return dict(sorted(arrays.items()))


def other_generator() -> Generator:
    torch.manual_seed(5)
    generator = Generator(3)
    for parameter in generator.parameters():
        nn.init.normal_(parameter, std=0.1)
    generator.units.set([0.5, 0.4, 0.3], [0.2, 0.2, 0.1])
    return generator


@pytest.mark.parametrize("form", ["npz", "safetensors", "keras"])
def test_takes_weights_from_a_file(form: str, tmp_path: Path) -> None:
    given_one, path = other_generator(), tmp_path / f"g.{'npz' if form == 'keras' else form}"
    if form == "safetensors":
        save_file(given_one.state_dict(), path)
    else:
        np.savez(path, **(keras(given_one) if form == "keras" else given_one.state_dict()))
    part = StyleGenerator(weights=path, mean=(127.5, 102.0, 76.5), std=(51.0, 51.0, 25.5))
    images = torch.rand(2, 3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(made(part, drawn(6, channels=3))(images), given_one(images))


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"a": np.zeros(3)}, "no generator"),
        (keras(Generator(1)), "no generator"),
        (None, "no safetensors file"),
    ],
)
def test_says_what_a_file_lacks(
    arrays: dict[str, np.ndarray] | None, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "g.npz"
    path.write_bytes(b"not an archive") if arrays is None else np.savez(path, **arrays)
    with pytest.raises(ValueError, match=told):
        made(StyleGenerator(weights=path), drawn(6, channels=3))


# --- sunsets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_sunsets_follow_the_picture_s_light_and_a_glow(channels: int) -> None:
    dark = torch.zeros(40, 16, 10, channels, dtype=torch.uint8)
    light = dark + 255
    first, second = (sunset(images, torch.Generator().manual_seed(0)) for images in (dark, light))
    assert first.shape == dark.shape
    assert bool((second.float().mean((1, 2, 3)) > first.float().mean((1, 2, 3)) + 40).all())
    assert len(first.float().mean(3).argmax(1)[:, 0].unique()) > 3, (
        "the glow is at another height in each picture"
    )
    assert torch.equal(first[:, :, 0], first[:, :, 9]), "and the same from left to right"


def test_a_sunset_is_red_before_it_is_blue() -> None:
    made_up = sunset(drawn(50, channels=3).images, torch.Generator().manual_seed(1)).float()
    assert float(made_up[..., 0].mean()) > float(made_up[..., 2].mean()) + 30


@pytest.mark.parametrize("mirrors", [True, False])
def test_training_is_as_repeatable_as_the_grid_asks_and_mirrors_no_signs(
    mirrors: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Recipe] = []
    access = access_to(drawn(12))
    task = replace(access.task, mirrors=mirrors)
    access._context = replace(access._context, numerics={"deterministic": "warn"}, task=task)
    monkeypatch.setattr(access, "fit", lambda game, data, recipe, **hooks: seen.append(recipe))
    for part in (StyleGenerator(**QUICK), StyleGenerator(**QUICK, flip=not mirrors)):
        part.make(access)
    assert [(recipe.deterministic, recipe.flip) for recipe in seen] == [
        ("warn", mirrors),
        ("warn", not mirrors),
    ]
