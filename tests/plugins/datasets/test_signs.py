from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.components import Pictures
from plugins.datasets.signs import Signs, _bell
from plugins.parts.sign_designs import DESIGNS, GLYPHS, stroke_distance
from tests.kit.places import ROOT

# Made once; a change means that every number measured on this data set must be measured again.
GOLDEN = {
    (): "961c1e98882eb4133759a10761f614cda5431969ce8eefbeb6c8aff466be8aaa",
    (
        ("classes", 43),
        ("seed", 7),
        ("size", 33),
        ("test", 50),
        ("train", 300),
    ): "52b6f5ead2fc241873f5eb99ff150c5f40140827dd58d554437d733788d670cf",
}

CODE = """
import hashlib, json, sys
from plugins.datasets.signs import Signs
pictures = Signs(**json.loads(sys.argv[1])).load()
arrays = (pictures.train_images, pictures.train_labels, pictures.test_images, pictures.test_labels)
print(hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest())
"""


def digest(pictures: Pictures) -> str:
    arrays = (
        pictures.train_images,
        pictures.train_labels,
        pictures.test_images,
        pictures.test_labels,
    )
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


@pytest.fixture(scope="module")
def default() -> Pictures:
    return Signs().load()


def test_the_pictures_are_the_golden_ones(default: Pictures) -> None:
    assert digest(default) == GOLDEN[()]


@pytest.mark.parametrize("params", [key for key in GOLDEN if key])
def test_other_parameters_are_golden_too(params: tuple[tuple[str, Any], ...]) -> None:
    assert digest(Signs(**dict(params)).load()) == GOLDEN[params]


@pytest.mark.parametrize("narrow", [False, True])
def test_a_fresh_process_makes_the_same_pictures_on_any_instruction_set(narrow: bool) -> None:
    # Without the wider instructions that it found, NumPy takes other code paths, as it would on an
    # older processor.
    found = np.show_config(mode="dicts")["SIMD Extensions"]["found"] if narrow else []
    environment = {
        **os.environ,
        "NPY_DISABLE_CPU_FEATURES": " ".join(found),
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "5",
    }
    run = subprocess.run(
        [sys.executable, "-c", CODE, '{"train": 300, "test": 20}'],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == digest(Signs(train=300, test=20).load())


def test_shapes_types_and_balance(default: Pictures) -> None:
    assert default.train_images.shape == (4000, 16, 16, 3)
    assert default.test_images.shape == (2000, 16, 16, 3)
    assert default.train_images.dtype == default.test_images.dtype == np.uint8
    assert default.train_labels.dtype == default.test_labels.dtype == np.int64
    assert np.bincount(default.train_labels).tolist() == [400] * 10
    assert np.bincount(default.test_labels).tolist() == [200] * 10


def test_no_two_pictures_are_alike(default: Pictures) -> None:
    everything = np.concatenate([default.train_images, default.test_images])
    assert len({picture.tobytes() for picture in everything}) == len(everything)


def nearest_mean(pictures: Pictures) -> float:
    train, test = (
        a.reshape(len(a), -1).astype(np.float64)
        for a in (pictures.train_images, pictures.test_images)
    )
    means = np.stack(
        [
            train[pictures.train_labels == label].mean(0)
            for label in np.unique(pictures.train_labels)
        ]
    )
    distance = (means**2).sum(1) - 2 * test @ means.T
    return float((distance.argmin(1) == pictures.test_labels).mean())


def test_classes_are_separable_but_not_from_raw_pixels_alone(default: Pictures) -> None:
    """Chance is 10 %; a small network reaches 98 %."""
    assert 0.35 < nearest_mean(default) < 0.6


def test_without_disturbance_classes_are_nearly_separable_from_raw_pixels() -> None:
    still = Signs(
        train=500,
        test=500,
        rotation=0.0,
        tilt=0.0,
        scale=0.0,
        shift=0.0,
        light=0.0,
        noise=0.0,
        clutter=0.3,
    )
    assert nearest_mean(still.load()) > 0.95


@settings(deadline=None, max_examples=25)
@given(
    classes=st.integers(2, len(DESIGNS)),
    size=st.integers(8, 24),
    counts=st.tuples(st.integers(1, 300), st.integers(1, 30)),
    seed=st.integers(0, 2**63 - 1),
    strengths=st.tuples(*(st.floats(0, 1) for _ in range(7))),
)
def test_any_parameters_make_pictures_as_the_facts_say(
    classes: int, size: int, counts: tuple[int, int], seed: int, strengths: tuple[float, ...]
) -> None:
    names = ("rotation", "tilt", "scale", "shift", "light", "noise", "clutter")
    limits = (90, 0.5, 0.5, 0.5, 1, 1, 1)
    wild: dict[str, Any] = {
        name: share * limit for name, share, limit in zip(names, strengths, limits, strict=True)
    }
    signs = Signs(classes=classes, size=size, train=counts[0], test=counts[1], seed=seed, **wild)
    facts, pictures = signs.facts(), signs.load()
    assert pictures.train_images.shape == (
        facts.train_count,
        facts.height,
        facts.width,
        facts.channels,
    )
    assert len(pictures.test_images) == len(pictures.test_labels) == facts.test_count
    numbers = np.bincount(pictures.train_labels, minlength=classes)
    assert len(numbers) == facts.classes == classes
    assert numbers.max() - numbers.min() <= 1
    assert digest(signs.load()) == digest(pictures)


@settings(deadline=None, max_examples=15)
@given(fewer=st.integers(1, 600), more=st.integers(1, 600), classes=st.integers(2, 43))
def test_a_smaller_set_is_a_prefix_of_a_larger_one(fewer: int, more: int, classes: int) -> None:
    small = Signs(train=min(fewer, more), test=1, size=8, classes=classes).load()
    large = Signs(train=max(fewer, more), test=3, size=8, classes=classes).load()
    count = min(fewer, more)
    assert np.array_equal(small.train_images, large.train_images[:count])
    assert np.array_equal(small.train_labels, large.train_labels[:count])
    assert np.array_equal(small.test_images, large.test_images[:1])


def test_seed_and_split_move_every_picture() -> None:
    first, second = (Signs(train=200, test=200, seed=seed).load() for seed in (0, 1))
    pairs = combinations(
        [first.train_images, first.test_images, second.train_images, second.test_images], 2
    )
    assert all((one != other).any((1, 2, 3)).all() for one, other in pairs)


def test_the_fingerprint_follows_the_pictures_and_nothing_else() -> None:
    plain = Signs().facts().fingerprint
    assert Signs(pool=100, validation=10, split_seed=3, take=50).facts().fingerprint == plain
    changed: list[dict[str, Any]] = [
        {"classes": 9}, {"size": 17}, {"train": 3999}, {"test": 1999}, {"seed": 1},
        {"rotation": 1.0}, {"tilt": 0.0}, {"scale": 0.0}, {"shift": 0.0}, {"light": 0.0},
        {"noise": 0.0}, {"clutter": 0.0},
    ]  # fmt: skip
    assert (
        len({plain, *(Signs(**params).facts().fingerprint for params in changed)})
        == len(changed) + 1
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": 1}, {"classes": 44}, {"size": 7}, {"train": 0}, {"test": 0}, {"seed": -1},
        {"noise": 1.1}, {"rotation": -1.0},
    ],
)  # fmt: skip
def test_parameters_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Signs(**wrong)


def test_noise_is_nearly_normal_and_its_strength_is_a_deviation() -> None:
    bell = _bell(np.random.Philox(1).random_raw(400 * 384).reshape(400, 384), 16)
    assert bell.shape == (400, 16, 16, 3)
    assert abs(float(bell.mean())) < 0.01
    assert float(bell.std()) == pytest.approx(1, abs=0.01)
    assert float((np.abs(bell) < 1).mean()) == pytest.approx(0.68, abs=0.02)


def test_every_design_is_its_own_and_its_glyph_exists() -> None:
    assert len({design.name for design in DESIGNS}) == len(DESIGNS) == 43
    looks = {
        (design.shape, design.face, design.rim, design.glyph, design.ink) for design in DESIGNS
    }
    assert len(looks) == len(DESIGNS)
    assert {design.glyph for design in DESIGNS} - {""} == set(GLYPHS)


@settings(deadline=None, max_examples=50)
@given(
    points=st.lists(
        st.tuples(st.floats(-1, 1, width=32), st.floats(-1, 1, width=32)), min_size=1, max_size=5
    )
)
def test_stroke_distance_is_that_to_the_nearest_point_of_a_dense_walk(
    points: list[tuple[float, float]],
) -> None:
    u, v = (np.array(part, np.float32) for part in zip(*points, strict=True))
    for strokes in (GLYPHS["8"], GLYPHS["!"], GLYPHS["left"]):
        walk = np.concatenate(
            [np.linspace(start, end, 400) for stroke in strokes for start, end in pairwise(stroke)]
        )
        expected = np.sqrt((u[:, None] - walk[:, 0]) ** 2 + (v[:, None] - walk[:, 1]) ** 2).min(1)
        assert np.allclose(stroke_distance(strokes, u, v), expected, atol=5e-3)
