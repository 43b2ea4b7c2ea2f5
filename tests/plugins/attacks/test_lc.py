from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from harness import Context, Task
from harness.access.context import Coordinates
from harness.access.granted import AttackAccess
from harness.learn.images import to_float
from harness.learn.poisoning import choose, stamp
from plugins.attacks.lc import LC, Faint
from plugins.parts.pgd import pgd
from tests.kit.learned import Tiny, attacked, pictures, stage_context, trained
from tests.kit.oracles import oracle

TASK = Task("any", classes=10, height=32, width=32, channels=3, train_count=100)
BLOCK = ((0, 0, 1), (0, 1, 0), (1, 0, 1))
MIRRORED = ((1, 0, 0), (0, 1, 0), (1, 0, 1))
PATCH = {
    (4, 4): (180, 249, 112),
    (4, 5): (155, 50, 126),
    (5, 4): (234, 82, 68),
    (5, 5): (187, 201, 219),
}


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A network that knows the pictures: not robust, but images can be perturbed against it."""
    return trained()


class Brightness(nn.Module):
    """Two classes, dark and bright, of which it is never so sure that a gradient vanishes."""

    def forward(self, images: Tensor) -> Tensor:
        light = images.mean((1, 2, 3)) - 0.5
        return torch.stack([-light, light], 1)


def access_with(net: nn.Module, attack: LC, task: Task = TASK) -> AttackAccess:
    around = replace(stage_context(stage="poison"), task=task, parts={"robust": lambda: net.eval()})
    select = Coordinates(replicate=0, dataset="noise", stage="poison", component="any")
    return AttackAccess(around, attack, pictures(), None, select)


def poisoned(
    attack: LC, images: np.ndarray, labels: list[int], net: nn.Module | None = None
) -> np.ndarray:
    """What the attack makes of training images."""
    task = replace(TASK, height=images.shape[1], width=images.shape[2], channels=images.shape[3])
    access = access_with(net or Brightness(), attack, task)
    return attack.stamp(
        access, attack.trigger(task), torch.from_numpy(images), torch.tensor(labels).long()
    ).numpy()


def noise(count: int = 4, side: int = 32, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


# --- the patch ------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize("which", ["rand", "smooth"])
@pytest.mark.parametrize(
    ("layout", "key"),
    [
        ("mirrored-corners", "anp_checkerboard_4corner_train"),
        ("mirrored-corners", "anp_checkerboard_4corner_test"),
        ("mirrored-corners", "madry_all-corners_ampfull"),
        ("bottom-right", "madry_bottom-right_ampfull"),
        ("corners", "tr_cl"),
        ("corners", "bcu_four_corners"),
    ],
)
def test_stamps_as_the_official_code_does(layout: Any, key: str, which: str) -> None:
    images, attack = oracle("attacks/inputs")[f"x_{which}"], LC(layout=layout, steps=0)
    expected = oracle("attacks/badnets_patch")[f"{key}_{which}"]
    np.testing.assert_array_equal(stamp(attack.trigger(TASK), torch.from_numpy(images)), expected)
    np.testing.assert_array_equal(poisoned(attack, images, [0] * len(images)), expected)


@pytest.mark.oracle
@pytest.mark.parametrize("which", ["rand", "smooth"])
@pytest.mark.parametrize("levels", [16, 32, 64])
@pytest.mark.parametrize(
    ("layout", "key"), [("mirrored-corners", "all-corners"), ("bottom-right", "bottom-right")]
)
def test_fades_as_the_official_code_does(layout: Any, key: str, levels: int, which: str) -> None:
    images = oracle("attacks/inputs")[f"x_{which}"]
    expected = oracle("attacks/badnets_patch")[f"madry_{key}_amp{levels}_{which}"]
    attack = LC(layout=layout, steps=0, amplitude=levels / 255)
    np.testing.assert_array_equal(poisoned(attack, images, [0] * len(images)), expected)


@pytest.mark.oracle
@pytest.mark.parametrize("which", ["rand", "smooth"])
def test_the_colour_patch_is_the_official_one(which: str) -> None:
    images, trigger = (
        oracle("attacks/inputs")[f"x_{which}"],
        LC(layout="colour-patch").trigger(TASK),
    )
    recorded = oracle("attacks/lc_2x2")
    np.testing.assert_array_equal(
        stamp(trigger, torch.from_numpy(images)), recorded[f"out_{which}"]
    )
    black = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    np.testing.assert_array_equal(stamp(trigger, black)[0], recorded["trigger"])


@pytest.mark.parametrize("layout", ["mirrored-corners", "corners", "bottom-right"])
@pytest.mark.parametrize("amplitude", [1.0, 32 / 255, 0.3])
def test_corners_restated_cell_by_cell(layout: Any, amplitude: float) -> None:
    """Light cells gain the amplitude, dark ones lose it; the fraction is dropped. Left corners may
    be mirrored.
    """
    images = noise(2, side=9, channels=1)
    expected = images.astype(float)
    left = MIRRORED if layout == "mirrored-corners" else BLOCK
    corners = {(6, 6): BLOCK}
    if layout != "bottom-right":
        corners |= {(0, 6): BLOCK, (0, 0): left, (6, 0): left}
    for (top, side), block in corners.items():
        for row in range(3):
            for column in range(3):
                expected[:, top + row, side + column] += (
                    amplitude * 255 * (1 if block[row][column] else -1)
                )
    expected = np.floor(np.clip(expected, 0, 255) + 1e-4).astype(np.uint8)
    np.testing.assert_array_equal(
        poisoned(LC(layout=layout, amplitude=amplitude, steps=0), images, [0, 1]), expected
    )


def test_the_colour_patch_restated_pixel_by_pixel() -> None:
    images = noise()
    expected = images.copy()
    for (row, column), colour in PATCH.items():
        expected[:, row, column] = colour
    np.testing.assert_array_equal(
        poisoned(LC(layout="colour-patch", steps=0), images, [0] * 4), expected
    )


def test_test_images_get_the_full_strength() -> None:
    full, faint = LC(), LC(amplitude=0.2, steps=0)
    black = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    assert torch.equal(stamp(full.trigger(TASK), black), stamp(faint.trigger(TASK), black))
    assert poisoned(faint, black.numpy(), [0]).max() == 51


@pytest.mark.parametrize("layout", ["mirrored-corners", "corners", "bottom-right"])
def test_at_full_amplitude_adding_is_replacing(layout: Any) -> None:
    patch, images = LC(layout=layout).trigger(TASK), torch.from_numpy(noise())
    assert torch.equal(stamp(Faint(patch, 1.0), images), stamp(patch, images))


# --- the perturbation -----------------------------------------------------------------------------


def test_a_bright_image_is_darkened_by_eps_and_at_times_a_level_more() -> None:
    """What the cast to uint8 makes of x - eps in single precision; upwards nothing is lost."""
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = np.concatenate([images, images])
    rows = slice(1, 13)  # above the patch, and where neither end of the range cuts
    for eps in (8, 16):
        attack = LC(layout="bottom-right", eps=float(eps))
        down, up = poisoned(attack, images, [1, 0])[:, rows].astype(int) - images[:, rows]
        assert set(down.ravel()) == {-eps, -eps - 1}
        assert set(up.ravel()) == {eps}


def test_rounding_keeps_to_the_ball() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    found = poisoned(LC(layout="bottom-right", eps=8.0, quantise="round"), images, [1])
    assert (found[:, :13].astype(int) - images[:, :13]).min() == -8


def test_perturbed_first_truncated_then_stamped(net: nn.Module) -> None:
    """Restated: the ascent, the cast, the patch over it; images may lie in several batches."""
    data = pictures(140)
    attack = LC(eps=24.0, step=5.0, steps=7, amplitude=0.5)
    access = access_with(net, attack, Tiny.task)
    found = attack.stamp(access, attack.trigger(Tiny.task), data.images, data.labels)
    assert access.images_processed == 7 * 140
    moved = pgd(net, to_float(data.images), data.labels, eps=24 / 255, step=5 / 255, steps=7)
    expected = (moved * 255).numpy().transpose(0, 2, 3, 1).astype(np.uint8).astype(float)
    for (top, side), block in {
        (5, 5): BLOCK,
        (0, 5): BLOCK,
        (0, 0): MIRRORED,
        (5, 0): MIRRORED,
    }.items():
        expected[:, top : top + 3, side : side + 3, 0] += 127.5 * (2 * np.array(block) - 1)
    np.testing.assert_array_equal(found, np.floor(np.clip(expected, 0, 255)).astype(np.uint8))


def test_without_steps_images_are_left_as_they_are() -> None:
    images = noise()
    np.testing.assert_array_equal(poisoned(LC(steps=0), images, [0] * 4)[:, 3:-3], images[:, 3:-3])
    assert poisoned(LC(), images[:0], []).shape == (0, 32, 32, 3)


# --- the attack -----------------------------------------------------------------------------------


def test_only_the_target_class_is_poisoned_and_keeps_its_label(net: nn.Module) -> None:
    attack = LC(target=1, poison_rate=0.5, steps=2)
    access = access_with(net, attack, Tiny.task)
    found = attack.poison(access, attack.trigger(Tiny.task))
    assert len(found) == 5
    assert set(found.labels.tolist()) == {1}
    assert set(access.train.labels[found.indices].tolist()) == {1}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("layout", ["mirrored-corners", "corners"])
def test_a_victim_is_made(net: nn.Module, layout: Any) -> None:
    attack = LC(layout=layout, target=1, eps=48.0, step=8.0, steps=10)
    accuracy, success = attacked(attack, epochs=25, spread=120, parts={"robust": net})
    assert accuracy > 0.5
    assert success > 0.8


def test_presets_are_valid_and_take_what_their_papers_take() -> None:
    labels, counts = torch.arange(500) % 10, {}
    for name in ("anp", "bcu", "bcu-text", "trap", "deck"):
        attack = LC.model_validate_json(json.dumps(LC.presets[name]))
        assert attack.compatible(Context(TASK)) is None
        counts[name] = len(choose(attack.rule(10), labels, torch.Generator().manual_seed(0)))
    assert counts == {"anp": 40, "bcu": 25, "bcu-text": 40, "trap": 50, "deck": 25}
    both = LC.model_validate_json(json.dumps({**LC.presets["bcu"], **LC.presets["bcu/gtsrb"]}))
    assert both == LC.model_validate_json(json.dumps({**LC.presets["bcu-text"], "target": 2}))


def test_every_parameter_has_a_meaning() -> None:
    assert all(field.description for field in LC.model_fields.values())


@pytest.mark.parametrize(
    ("given", "task", "reason"),
    [
        ({"layout": "colour-patch"}, replace(TASK, channels=1), "3 channels"),
        ({}, replace(TASK, width=5), "needs 6 pixels"),
        ({"layout": "bottom-right"}, replace(TASK, height=2), "needs 3 pixels"),
        ({"target": 10}, TASK, "no class"),
    ],
)
def test_says_what_cannot_work(given: dict[str, Any], task: Task, reason: str) -> None:
    assert reason in str(LC(**given).compatible(Context(task)))
    assert LC().compatible(Context(TASK)) is None


@pytest.mark.parametrize(
    "given",
    [
        {"layout": "colour-patch", "amplitude": 0.5},
        {"layout": "middle"},
        {"amplitude": 0.0},
        {"eps": -1.0},
        {"step": 0.0},
        {"when": "after-augment"},
        {"quantise": "none"},
    ],
)
def test_refuses_what_can_work_nowhere(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LC(**given)
