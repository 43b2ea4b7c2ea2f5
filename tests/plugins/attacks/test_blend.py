from __future__ import annotations

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from harness import Context, Task
from harness.learn.poisoning import stamp
from plugins.attacks.blend import Blend, Mean
from plugins.parts.pictures import read_picture
from tests.kit.learned import attacked
from tests.kit.oracles import oracle

TASK = Task("any", classes=10, height=32, width=32, channels=3, train_count=100)


class Bench:
    """What `craft` asks for."""

    def __init__(self, task: Task = TASK, seed: int = 0) -> None:
        self.task, self.seed = task, seed

    def generator(self, stream: str) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def crafted(attack: Blend, bench: Bench) -> torch.nn.Module:
    trigger = attack.trigger(bench.task)
    attack.craft(bench, trigger)
    return trigger


def blended(pattern: np.ndarray, images: np.ndarray, alpha: float = 0.2) -> np.ndarray:
    levels = torch.from_numpy(pattern).permute(2, 0, 1).float() / 255
    return stamp(Mean(levels, alpha), torch.from_numpy(images), "truncate").numpy()


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("anp_pattern", "anp_train"),
        ("anp_pattern", "anp_test"),
        ("uniform_pattern_rng1", "uniform_rng1_train"),
        ("uniform_pattern_rng1", "uniform_rng1_test"),
        ("tr_blend_trigger_resized", "tr_blend"),
    ],
)
@pytest.mark.parametrize("pictures", ["rand", "smooth"])
def test_blends_as_the_official_code_does(pattern: str, key: str, pictures: str) -> None:
    inputs, outputs = oracle("attacks/inputs"), oracle("attacks/blend")
    found = blended(outputs[pattern], inputs[f"x_{pictures}"])
    np.testing.assert_array_equal(found, outputs[f"{key}_{pictures}"])


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["bcu_randompixels_jpeg", "hellokitty"])
@pytest.mark.parametrize("pictures", ["rand", "smooth"])
def test_single_precision_of_official_code_shows_in_whole_levels_only(
    name: str, pictures: str
) -> None:
    """BCU's patterns are float32: where 0.8 x + 0.2 p is a whole level, its rounding error may drop
    it by one.
    """
    inputs, outputs = oracle("attacks/inputs"), oracle("attacks/blend")
    images, pattern = inputs[f"x_{pictures}"], outputs[f"{name}_pattern"]
    found, official = blended(pattern, images), outputs[f"{name}_{pictures}"]
    exact = 0.8 * images + 0.2 * pattern.astype(np.float64)
    whole = np.abs(exact - exact.round()) < 1e-5
    np.testing.assert_array_equal(found[~whole], official[~whole])
    assert np.isin(found.astype(int) - official, (0, 1)).all()


@pytest.mark.oracle
@pytest.mark.parametrize("pictures", ["rand", "smooth"])
def test_floats_agree_too(pictures: str) -> None:
    inputs, outputs = oracle("attacks/inputs"), oracle("attacks/blend")
    images = torch.from_numpy(inputs[f"x_{pictures}"]).permute(0, 3, 1, 2) / 255
    found = Mean(torch.from_numpy(outputs["vault_blend_pattern_chw"]), 0.2)(images)
    np.testing.assert_allclose(found, outputs[f"vault_blend_{pictures}_nchw01"], atol=1e-6)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0])
def test_the_formula_restated_pixel_by_pixel(alpha: float) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2, 5, 4, 1), dtype=np.uint8)
    pattern = random.integers(0, 256, (5, 4, 1), dtype=np.uint8)
    found = blended(pattern, images, alpha)
    for where in np.ndindex(images.shape):
        percent = round(100 * alpha)
        exact = (100 - percent) * int(images[where]) + percent * int(pattern[where[1:]])
        assert found[where] == exact // 100


def test_the_pattern_is_uniform_and_belongs_to_the_replicate() -> None:
    task = Task("any", classes=2, height=64, width=64, channels=3, train_count=2)
    first, again, other = (
        crafted(Blend(), Bench(task, seed)).get_buffer("pattern") * 255 for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    counts = torch.histc(first, bins=16, min=0, max=256)
    assert float(first.max()) > 250
    assert float((counts / counts.mean() - 1).abs().max()) < 0.2
    assert not torch.equal(first[0], first[1]), "each channel has its own"


def test_a_picture_of_one_s_own_is_resized(tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, 4:] = 200
    np.save(tmp_path / "half.npy", picture)
    attack = Blend.model_validate_json(json.dumps({"picture": str(tmp_path / "half.npy")}))
    found = crafted(attack, Bench()).get_buffer("pattern")
    assert found.shape == (3, 32, 32)
    assert (found[:, :, :8] == 0).all()
    torch.testing.assert_close(found[:, :, 24:], torch.full((3, 32, 8), 200 / 255))


def test_pictures_are_read_by_pillow_where_it_is_installed(tmp_path: Path) -> None:
    if find_spec("PIL") is None:
        (tmp_path / "noise.png").write_bytes(b"any")
        with pytest.raises(ValueError, match="pip install pillow"):
            read_picture(tmp_path / "noise.png")
        return
    image = import_module("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image.fromarray(pixels).save(tmp_path / "noise.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "noise.png"), pixels)
    image.fromarray(pixels[:, :, 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "grey.png"), pixels[:, :, :1])


def test_what_pillow_cannot_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png is no picture"):
        read_picture(tmp_path / "text.png")
    import_module("PIL.Image").fromarray(np.full((4, 4), 4000, np.uint16)).save(
        tmp_path / "deep.png"
    )
    with pytest.raises(
        ValueError, match=r"deep\.png: its grey levels are no bytes but of mode I;16"
    ):
        read_picture(tmp_path / "deep.png")


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.array([{}], dtype=object)]
)
def test_what_is_no_picture_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "odd.npy", array)
    with pytest.raises(ValueError, match=r"odd\.npy"):
        read_picture(tmp_path / "odd.npy")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("preset", ["bcu", "deck"])
def test_a_victim_is_made(preset: str) -> None:
    attack = Blend.model_validate_json(
        json.dumps({**Blend.presets[preset], "poison_rate": 0.2, "alpha": 0.5})
    )
    accuracy, success = attacked(attack, epochs=25)
    assert accuracy > 0.9
    assert success > 0.8


def test_presets_are_valid_and_can_work() -> None:
    for preset in [{}, *Blend.presets.values()]:
        assert Blend.model_validate_json(json.dumps(preset)).compatible(Context(TASK)) is None


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"alpha": 1.5}, {"picture": 3}])
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Blend(**settings)
