from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from harness import Context, Task
from harness.learn.poisoning import choose, stamp
from plugins.attacks.sig import SIG, sine, wrapped
from tests.kit.learned import attacked
from tests.kit.oracles import oracle

TASK = Task("any", classes=10, height=32, width=32, channels=3, train_count=100)


def stamped(attack: SIG, images: np.ndarray, task: Task = TASK) -> np.ndarray:
    return stamp(attack.trigger(task), torch.from_numpy(images), "truncate").numpy()


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({}, "bcu_sig_d20_f6_rand"),
        ({"delta": 60.0}, "bcu_sig_d60_f6_rand"),
        ({"form": "wrapped"}, "abl_signalTrigger_rand"),
        ({"form": "wrapped"}, "tr_sig_rand"),
    ],
)
def test_stamps_as_the_official_code_does(settings: dict[str, Any], key: str) -> None:
    np.testing.assert_array_equal(
        stamped(SIG(**settings), oracle("attacks/inputs")["x_rand"]), oracle("attacks/sig")[key]
    )


@pytest.mark.oracle
def test_the_waves_are_the_official_ones() -> None:
    recorded = oracle("attacks/sig")
    np.testing.assert_array_equal(sine(20.0, 6.0, 32), recorded["formula_row_d20_f6_w32"])
    np.testing.assert_array_equal(wrapped(20.0, 32).expand(32, 32), recorded["abl_mask"])
    np.testing.assert_array_equal(wrapped(20.0, 32).expand(32, 32), recorded["tr_sig_trigger"])


@pytest.mark.oracle
@pytest.mark.parametrize("pictures", ["rand", "smooth"])
def test_floats_agree_too(pictures: str) -> None:
    images = torch.from_numpy(oracle("attacks/inputs")[f"x_{pictures}"]).permute(0, 3, 1, 2) / 255
    found = SIG(form="wrapped", quantise="none", when="after-augment").trigger(TASK)(images)
    np.testing.assert_allclose(
        found, oracle("attacks/sig")[f"vault_sig_{pictures}_nchw01"], atol=1e-6
    )


@pytest.mark.parametrize(
    ("width", "delta", "f"), [(32, 20.0, 6.0), (64, 60.0, 6.0), (30, 7.5, 4.0)]
)
def test_the_sine_restated_column_by_column(width: int, delta: float, f: float) -> None:
    """Clipped, then without its fraction, in double precision as NumPy has it."""
    images = np.random.default_rng(0).integers(0, 256, (2, 5, width, 3), dtype=np.uint8)
    expected = images.copy()
    for column in range(width):
        moved = images[:, :, column] + delta * np.sin(2 * np.pi * column * f / width)
        expected[:, :, column] = np.clip(moved, 0, 255).astype(np.uint8)
    task = Task("any", classes=2, height=5, width=width, channels=3, train_count=2)
    np.testing.assert_array_equal(stamped(SIG(delta=delta, f=f), images, task), expected)


def test_the_wrapped_wave_restated_column_by_column() -> None:
    """0.8 x + 0.2 m without its fraction; m is the sine cast to uint8."""
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 12, 1), dtype=np.uint8)
    expected = images.copy()
    for column in range(12):
        mask = int(20 * math.sin(0.8 * column)) & 255
        expected[:, :, column] = (8 * images[:, :, column].astype(int) + 2 * mask) // 10
    task = Task("any", classes=2, height=5, width=12, channels=1, train_count=2)
    np.testing.assert_array_equal(stamped(SIG(form="wrapped"), images, task), expected)


def test_floats_get_the_exact_sine() -> None:
    grey = torch.full((1, 3, 32, 32), 0.5)
    moved = SIG(quantise="none", when="before-augment").trigger(TASK)(grey) - 0.5
    exact = torch.tensor(
        [20 / 255 * math.sin(2 * math.pi * 6 * column / 32) for column in range(32)]
    )
    torch.testing.assert_close(moved, exact.expand(1, 3, 32, 32), atol=1e-6, rtol=0)


def test_only_the_target_class_is_poisoned_and_keeps_its_label() -> None:
    labels = torch.arange(100) % 10
    chosen = choose(SIG(target=3).rule(10), labels, torch.Generator().manual_seed(0))
    assert len(chosen) == 8
    assert set(labels[chosen].tolist()) == {3}
    assert SIG.clean_label


def test_both_readings_of_eight_percent() -> None:
    """DECK's text means 8 % of the class, the toolbox behind it 8 % of the whole set, which is 80 %
    of a class.
    """
    labels = torch.arange(500) % 10
    counts = {}
    for name in ("deck", "deck-text"):
        attack = SIG.model_validate_json(json.dumps(SIG.presets[name]))
        counts[name] = len(choose(attack.rule(10), labels, torch.Generator().manual_seed(0)))
    assert counts == {"deck": 40, "deck-text": 4}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "settings", [{"f": 2.0}, {"form": "wrapped", "when": "after-augment", "quantise": "none"}]
)
def test_a_victim_is_made(settings: dict[str, Any]) -> None:
    accuracy, success = attacked(
        SIG(**{"target": 1, "delta": 60.0, **settings}), epochs=25, spread=120
    )
    assert accuracy > 0.5
    assert success > 0.8


def test_presets_are_valid_and_can_work() -> None:
    for preset in [{}, *SIG.presets.values()]:
        assert SIG.model_validate_json(json.dumps(preset)).compatible(Context(TASK)) is None


@pytest.mark.parametrize("settings", [{"delta": 0.0}, {"f": -1.0}, {"form": "square"}])
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SIG(**settings)


def test_says_what_cannot_work() -> None:
    assert "no class" in str(SIG(target=10).compatible(Context(TASK)))
