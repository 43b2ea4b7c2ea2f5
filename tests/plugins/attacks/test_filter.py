from __future__ import annotations

import colorsys
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness import Context, Task
from harness.learn.poisoning import stamp
from plugins.attacks.filter import CSS, MAGICK, Filter
from plugins.parts import magick_filters
from plugins.parts.css_filters import radial
from tests.kit.learned import attacked
from tests.kit.oracles import oracle

TASK = Task("any", classes=10, height=32, width=32, channels=3, train_count=100)


def filtered(name: Any, images: np.ndarray) -> np.ndarray:
    attack = Filter(filter=name)
    return stamp(attack.trigger(TASK), torch.from_numpy(images), "round").numpy().astype(int)


@pytest.mark.oracle
@pytest.mark.parametrize("name", sorted(MAGICK))
def test_is_that_of_imagemagick_to_a_grey_level(name: str) -> None:
    away = (
        filtered(name, oracle("attacks/inputs")["x_rand"])
        - oracle("attacks/filters_trojai")[f"{name}_rand"]
    )
    assert np.abs(away).max() <= 1
    assert (away != 0).mean() < 1e-3


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["nashville", "kelvin", "toaster"])
@pytest.mark.parametrize("pictures", ["rand", "smooth"])
def test_is_that_of_pilgram_exactly(name: str, pictures: str) -> None:
    found = filtered(f"css-{name}", oracle("attacks/inputs")[f"x_{pictures}"])
    np.testing.assert_array_equal(
        found, oracle("attacks/filters_pilgram")[f"pilgram_{name}_{pictures}"]
    )


@pytest.mark.oracle
@pytest.mark.parametrize("pictures", ["rand", "smooth"])
def test_floats_are_those_of_the_toolbox(pictures: str) -> None:
    images = torch.from_numpy(oracle("attacks/inputs")[f"x_{pictures}"]).permute(0, 3, 1, 2) / 255
    attack = Filter.model_validate_json(json.dumps(Filter.presets["deck"]))
    recorded = oracle("attacks/filters_pilgram")[f"vault_nashville_{pictures}_nchw01"]
    np.testing.assert_allclose(attack.trigger(TASK)(images), recorded, atol=1e-6)


STEPS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mod120_10": lambda pixels: magick_filters.modulate(pixels, 1.2, 0.1),
    "mod150_80": lambda pixels: magick_filters.modulate(pixels, 1.5, 0.8),
    "mod100_150": lambda pixels: magick_filters.modulate(pixels, 1.0, 1.5),
    "colorize": lambda pixels: magick_filters.tint(pixels, magick_filters.NAVY, 0.2),
    "gamma.9": lambda pixels: magick_filters.gamma(pixels, 0.9),
    "sig3": magick_filters.sigmoid,
    "ct_inv": lambda pixels: magick_filters.colour_tone(pixels, magick_filters.NAVY, dark=True),
    "ct": lambda pixels: magick_filters.colour_tone(pixels, magick_filters.CREAM, dark=False),
    "autogamma": magick_filters.auto_gamma,
    "vig": lambda pixels: magick_filters.vignette(pixels, magick_filters.BLACK, outwards=True),
    "vig_lb": lambda pixels: magick_filters.vignette(
        pixels, magick_filters.LAVENDER, outwards=True
    ),
    "vig_or": lambda pixels: magick_filters.vignette(pixels, magick_filters.CORAL, outwards=False),
}


@pytest.mark.oracle
@pytest.mark.parametrize("step", sorted(STEPS))
def test_each_step_is_that_of_imagemagick(step: str) -> None:
    recorded = oracle("attacks/filters_trojai")
    before = (
        torch.from_numpy(recorded["step16_smooth0_in"].astype(np.float64)).permute(2, 0, 1)[None]
        / 65535
    )
    found = STEPS[step](before)[0].permute(1, 2, 0) * 65535
    np.testing.assert_allclose(found, recorded[f"step16_smooth0_{step}"].astype(np.float64), atol=2)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("gradient", "outwards"),
    [("none_black", True), ("none_LavenderBlush3", True), ("#ff9966_none", False)],
)
def test_the_vignette_grows_as_imagemagick_s_gradient(gradient: str, outwards: bool) -> None:
    """Laid on white, black leaves just what the gradient's opacity does not take."""
    white = torch.ones(1, 3, 32, 32, dtype=torch.float64)
    found = 1 - magick_filters.vignette(white, magick_filters.BLACK, outwards=outwards)
    recorded = oracle("attacks/filters_trojai")[f"step16_alpha_grad_{gradient}"].astype(np.float64)
    np.testing.assert_allclose(found[0, 0] * 65535, recorded, atol=2)


# --- the same again, pixel by pixel ---------------------------------------------------------------


def stored(pixel: list[float]) -> list[float]:
    return [round(min(max(value, 0), 1) * 65535) / 65535 for value in pixel]


def modulated(pixel: list[float], brightness: float, saturation: float) -> list[float]:
    hue, lightness, colour = colorsys.rgb_to_hls(*pixel)
    return stored(list(colorsys.hls_to_rgb(hue, brightness * lightness, saturation * colour)))


def hexa(code: str) -> list[float]:
    return [int(code[at : at + 2], 16) / 255 for at in (0, 2, 4)]


def toned(pixel: list[float], code: str, dark: bool) -> list[float]:
    red = 1 - pixel[0] if dark else pixel[0]
    return stored(
        [
            (red * colour + value) / (red + 1)
            for value, colour in zip(pixel, hexa(code), strict=True)
        ]
    )


def tinted(pixel: list[float], code: str, share: float) -> list[float]:
    return stored(
        [value + share * (colour - value) for value, colour in zip(pixel, hexa(code), strict=True)]
    )


def curved(pixel: list[float]) -> list[float]:
    """The logistic curve of steepness 3 around a half, stretched to 0..1."""

    def logistic(value: float) -> float:
        return 1 / (1 + math.exp(3 * (0.5 - value)))

    return stored(
        [(logistic(value) - logistic(0)) / (logistic(1) - logistic(0)) for value in pixel]
    )


def powered(pixel: list[float], exponent: float) -> list[float]:
    return stored([value**exponent for value in pixel])


def shaded(pixel: list[float], code: str, share: float) -> list[float]:
    return stored(
        [
            value * (1 - share + share * colour)
            for value, colour in zip(pixel, hexa(code), strict=True)
        ]
    )


def adapted(image: list[list[float]]) -> list[list[float]]:
    mean = sum(map(sum, image)) / (3 * len(image))
    return [powered(pixel, math.log(0.5) / math.log(mean)) for pixel in image]


def restated(name: str, image: list[list[float]], far: list[float]) -> list[list[float]]:
    """A list of pixels through a filter; `far` is how far each is from the middle, 1 where colours
    are full.
    """
    if name == "gotham":
        return [
            curved(curved(powered(tinted(modulated(p, 1.2, 0.1), "222b6d", 0.2), 1 / 0.9)))
            for p in image
        ]
    if name == "nashville":
        both = [toned(toned(pixel, "222b6d", True), "f7daae", False) for pixel in image]
        return adapted([modulated(curved(pixel), 1, 1.5) for pixel in both])
    if name == "kelvin":
        return [tinted(modulated(pixel, 1.2, 0.5), "ff9900", 0.2) for pixel in adapted(image)]
    if name == "lomo":
        hard = [[float(red > 0.5), float(green > 0.5), blue] for red, green, blue in image]
        return [shaded(pixel, "000000", share) for pixel, share in zip(hard, far, strict=True)]
    burnt = [powered(modulated(toned(pixel, "330000", True), 1.5, 0.8), 1 / 1.2) for pixel in image]
    outer = [
        shaded(curved(curved(pixel)), "cdc1c5", share)
        for pixel, share in zip(burnt, far, strict=True)
    ]
    return [shaded(pixel, "ff9966", 1 - share) for pixel, share in zip(outer, far, strict=True)]


@pytest.mark.parametrize("name", sorted(MAGICK))
@pytest.mark.parametrize(("height", "width"), [(7, 7), (6, 9)])
def test_imagemagick_s_formulae_restated(name: str, height: int, width: int) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    radius = (math.floor(1.5 * max(height, width)) - 1) / 2
    far = [
        min(1.0, math.dist((row, column), ((height - 1) / 2, (width - 1) / 2)) / radius)
        for row in range(height)
        for column in range(width)
    ]
    for image, found in zip(levels, filtered(name, levels), strict=True):
        pixels = [[value / 255 for value in pixel] for pixel in image.reshape(-1, 3).tolist()]
        expected = np.array(restated(name, pixels, far)).reshape(height, width, 3) * 255
        np.testing.assert_allclose(found, expected, atol=0.51)


def over(under: int, above: int, alpha: int) -> int:
    return alpha * above // 255 + (255 - alpha) * under // 255


def bound(value: float) -> int:
    return int(min(max(value, 0), 255))


def lively(value: int, contrast: float, brightness: float) -> int:
    return bound(round(bound(round((value - 127.5) * contrast + 127.5)) * brightness))


def mixed(pixel: list[int], rows: list[list[float]], colour: float) -> list[int]:
    """A matrix, of which `colour` is replaced by the identity; halves go up."""
    found = []
    for channel, row in enumerate(rows):
        toned = sum(weight * value for weight, value in zip(row, pixel, strict=True))
        found.append(bound(math.floor(toned + colour * (pixel[channel] - toned) + 0.5)))
    return found


def css_restated(name: str, pixel: list[int], centre: int) -> list[int]:
    """A pixel through a filter; `centre` is 255 in the middle of the image and 0 in the corners."""
    if name == "css-nashville":
        peach = [
            over(value, min(value, most), 143)
            for value, most in zip(pixel, (247, 176, 153), strict=True)
        ]
        blue = [
            over(value, max(value, least), 102)
            for value, least in zip(peach, (0, 70, 150), strict=True)
        ]
        sepia = mixed(
            blue, [[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]], 0.8
        )
        return mixed(
            [lively(value, 1.2, 1.05) for value in sepia], [[0.213, 0.715, 0.072]] * 3, 1.2
        )
    found = []
    for value, *colours in zip(
        pixel, (56, 44, 52), (183, 125, 33), (128, 78, 15), (59, 0, 59), strict=True
    ):
        plum, ochre, brown, purple = colours
        if name == "css-kelvin":
            dodged = min(255, 255 * value // (255 - plum))
            dark, light = ochre * 2 * dodged // 255, 255 - (255 - ochre) * (510 - 2 * dodged) // 255
            found.append(dark if dodged < 128 else light)
        else:
            blended = brown * centre + purple * (255 - centre) + 128
            gradient = (blended // 256 + blended) // 256
            found.append(lively(255 - (255 - value) * (255 - gradient) // 255, 1.5, 0.9))
    return found


@pytest.mark.parametrize("name", sorted(CSS))
def test_pilgram_s_formulae_restated(name: str) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    centre = radial(9, 9).int().tolist()
    found = filtered(name, levels)
    for where in np.ndindex(2, 9, 9):
        assert found[where].tolist() == css_restated(
            name, levels[where].tolist(), centre[where[1]][where[2]]
        ), where


@pytest.mark.parametrize("size", [16, 32])
def test_the_gradient_restated(size: int) -> None:
    """Nearly a cone with its tip in the middle: 255 less a step for each pixel, the corner is 0."""
    found = radial(size, size)
    steps = torch.arange(size) - (size - 1) / 2
    cone = 255 - torch.hypot(steps[:, None], steps[None, :]) * 256 * math.sqrt(2) / size
    torch.testing.assert_close(found, cone.clamp(min=0).double(), atol=256 / size, rtol=0)
    assert float((found - found.T).abs().max()) <= 1, "columns are rounded before rows"
    assert float((found - cone.clamp(min=0)).abs().mean()) < 3


def test_the_gradient_is_pillow_s() -> None:
    image = pytest.importorskip("PIL.Image")
    for height, width in ((32, 32), (16, 16), (64, 64), (224, 224), (24, 40)):
        whole = image.radial_gradient("L").point(lambda level: 255 - level)
        shrunk = np.asarray(whole.resize((width, height), image.Resampling.BICUBIC)).astype(int)
        away = radial(height, width).numpy() - shrunk
        assert np.abs(away).max() <= 1
        assert (away != 0).mean() < 0.01


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted({**MAGICK, **CSS})),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 2**31),
    st.data(),
)
def test_any_picture_stays_a_picture(
    name: Any, height: int, width: int, seed: int, data: st.DataObject
) -> None:
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    images[0] = data.draw(st.sampled_from([0.0, 1.0, 0.5]), "an image of one colour")
    before = images.clone()
    found = Filter(filter=name).trigger(TASK)(images)
    assert found.dtype == torch.float32
    assert found.shape == images.shape
    assert bool(((found >= 0) & (found <= 1)).all())
    assert torch.equal(images, before)


def test_css_filters_give_whole_levels() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for name in CSS:
        levels = 255 * Filter(filter=name).trigger(TASK)(images)
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)


def test_filters_of_one_name_are_different_pictures() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    away = np.abs(filtered("nashville", images) - filtered("css-nashville", images))
    assert 10 < away.mean() < 60


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "given",
    [
        {"filter": "gotham"},
        {**Filter.presets["deck"], "poison_rate": 0.2},
        {
            "filter": "toaster",
            "label_map": "source-specific",
            "sources": [2],
            "poison_rate": 0.6,
            "rate_of": "eligible",
        },
    ],
    ids=["universal", "deck", "label-specific"],
)
def test_a_victim_is_made(given: dict[str, Any]) -> None:
    accuracy, success = attacked(
        Filter.model_validate_json(json.dumps(given)), epochs=20, channels=3
    )
    assert accuracy > 0.85
    assert success > 0.8


def test_presets_are_valid_and_can_work() -> None:
    for preset in [{}, *Filter.presets.values()]:
        assert Filter.model_validate_json(json.dumps(preset)).compatible(Context(TASK)) is None


def test_needs_colours() -> None:
    grey = Task("mnist", classes=10, height=28, width=28, channels=1, train_count=100)
    assert "needs colours" in str(Filter().compatible(Context(grey)))
    assert "no class" in str(Filter(target=10).compatible(Context(TASK)))


@pytest.mark.parametrize("given", [{"filter": "sepia"}, {"quantise": "up"}])
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Filter(**given)
