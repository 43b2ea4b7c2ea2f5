from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from harness import Context, Task
from harness.learn.poisoning import stamp
from plugins.attacks.badnets import BadNets
from tests.kit.oracles import oracle

TASK = Task("any", classes=10, height=32, width=32, channels=3, train_count=100)


def stamped(attack: BadNets, images: np.ndarray, task: Task = TASK) -> np.ndarray:
    return stamp(attack.trigger(task), torch.from_numpy(images), "truncate").numpy()


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({}, "anp_checkerboard_1corner_train"),
        ({}, "anp_checkerboard_1corner_test"),
        ({}, "abl_gridTrigger"),
        ({}, "tr_badnet_grid"),
        ({}, "bcu_bottom_right"),
        ({"corners": "four-mirrored"}, "anp_checkerboard_4corner_train"),
        ({"corners": "four-mirrored"}, "anp_checkerboard_4corner_test"),
        ({"corners": "four"}, "tr_cl"),
        ({"corners": "four"}, "bcu_four_corners"),
        ({"pattern": "white", "size": 4, "margin": 1}, "tr_badnet_sq"),
        ({"pattern": "white", "margin": 1}, "abl_squareTrigger"),
        ({"pattern": "white"}, "bbench_white"),
        ({"pattern": "grid"}, "bbench_grid"),
    ],
)
@pytest.mark.parametrize("pictures", ["rand", "smooth"])
def test_stamps_as_the_official_code_does(
    settings: dict[str, Any], key: str, pictures: str
) -> None:
    inputs, outputs = oracle("attacks/inputs"), oracle("attacks/badnets_patch")
    found = stamped(BadNets(**settings), inputs[f"x_{pictures}"])
    np.testing.assert_array_equal(found, outputs[f"{key}_{pictures}"])


@pytest.mark.oracle
@pytest.mark.parametrize("pictures", ["rand", "smooth"])
def test_floats_agree_too(pictures: str) -> None:
    inputs, outputs = oracle("attacks/inputs"), oracle("attacks/badnets_patch")
    trigger = BadNets(pattern="white", size=4, margin=1).trigger(TASK)
    found = trigger(torch.from_numpy(inputs[f"x_{pictures}"]).permute(0, 3, 1, 2) / 255).permute(
        0, 2, 3, 1
    )
    np.testing.assert_allclose(found.numpy(), outputs[f"ibau_badnets_{pictures}"], atol=1e-6)


@pytest.mark.oracle
def test_the_white_square_is_the_one_that_neural_cleanse_injects() -> None:
    recorded = oracle("attacks/badnets_patch")
    trigger = BadNets(pattern="white", size=4, margin=1).trigger(TASK)
    for name, key in (("weight", "nc_mask"), ("light", "nc_pattern")):
        found = trigger.get_buffer(name).expand(3, -1, -1).permute(1, 2, 0) > 0
        np.testing.assert_array_equal(found, recorded[key] > 0)


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.2])
@pytest.mark.parametrize("margin", [0, 1, 5])
@pytest.mark.parametrize("pattern", ["checkerboard", "grid", "white"])
def test_the_formula_restated_pixel_by_pixel(pattern: Any, margin: int, alpha: float) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 12, 1), dtype=np.uint8)
    tile = {
        "checkerboard": [[0, 0, 255], [0, 255, 0], [255, 0, 255]],
        "grid": [[255, 1, 255], [1, 255, 1], [255, 1, 255]],
        "white": [[255] * 3] * 3,
    }[pattern]
    expected = images.copy()
    for picture in range(2):
        for row in range(3):
            for column in range(3):
                where = (picture, 16 - margin - 3 + row, 12 - margin - 3 + column, 0)
                exact = (1 - alpha) * int(images[where]) + alpha * tile[row][column]
                expected[where] = int(np.floor(exact + 1e-4))
    task = Task("any", classes=2, height=16, width=12, channels=1, train_count=2)
    found = stamped(BadNets(pattern=pattern, margin=margin, alpha=alpha), images, task)
    np.testing.assert_array_equal(found, expected)


def test_the_checkerboard_grows_by_its_cells() -> None:
    black = np.zeros((1, 32, 32, 3), np.uint8)
    small = stamped(BadNets(), black)[0, -3:, -3:, 0]
    large = stamped(BadNets(size=6), black)[0, -6:, -6:, 0]
    np.testing.assert_array_equal(large, small.repeat(2, 0).repeat(2, 1))


def test_a_mirrored_trigger_survives_a_flip() -> None:
    black = np.zeros((1, 32, 32, 3), np.uint8)
    mirrored = stamped(BadNets(corners="four-mirrored"), black)
    np.testing.assert_array_equal(mirrored, mirrored[:, :, ::-1])
    plain = stamped(BadNets(corners="four"), black)
    assert (plain != plain[:, :, ::-1]).any()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"pattern": "white", "size": 30, "margin": 3}, "do not fit"),
        (
            {"corners": "four", "pattern": "white", "size": 17},
            "twice, do not fit into 32x32 pixels",
        ),
        ({"target": 10}, "no class"),
    ],
)
def test_says_what_cannot_work(settings: dict[str, Any], reason: str) -> None:
    assert reason in str(BadNets(**settings).compatible(Context(TASK)))


def test_the_defaults_can_work() -> None:
    assert BadNets().compatible(Context(TASK)) is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"size": 4}, "no multiple of 3"),
        ({"label_map": "source-specific"}, "go together"),
        ({"quantise": "none"}, "before-augment"),
    ],
)
def test_refuses_what_can_work_nowhere(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        BadNets(**settings)
