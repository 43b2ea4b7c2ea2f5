from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from harness import Context, Incompatible, Task
from harness.learn.hooks import Batch
from harness.learn.images import ImageSet
from harness.learn.poisoning import stamp
from harness.learn.recipes import Recipe
from plugins.attacks.wanet import NoiseMode, WaNet, Warp, identity_grid, warp_grid
from tests.kit.oracles import oracle

TASK = Task("any", classes=10, height=32, width=32, channels=3, train_count=100)
NAME = "H32_k4_s0.5_r1"
KINDS = ["rand_unit", "smooth_unit", "rand_norm", "smooth_norm"]


def warp(grid: np.ndarray | torch.Tensor) -> Warp:
    module = Warp(grid.shape[1])
    module.get_buffer("grid").copy_(torch.as_tensor(grid))
    return module


def recorded_inputs(kind: str) -> torch.Tensor:
    """The images of a kind: which pictures, and whether in [0,1] or normalised, as the official
    code warps them.
    """
    recorded, (pictures, scale) = oracle("attacks/wanet"), kind.split("_")
    images = torch.from_numpy(oracle("attacks/inputs")[f"x_{pictures}"]).permute(0, 3, 1, 2) / 255
    if scale == "unit":
        return images
    mean, std = (torch.from_numpy(recorded[name])[:, None, None] for name in ("mean", "std"))
    return (images - mean) / std


@pytest.mark.oracle
def test_the_grid_follows_from_the_drawn_points() -> None:
    recorded = oracle("attacks/wanet")
    drawn = torch.from_numpy(recorded[f"{NAME}_ins_raw"])
    np.testing.assert_allclose(identity_grid(32), recorded[f"{NAME}_identity_grid"], atol=1e-6)
    grid = warp_grid(drawn, 32, 0.5, 1.0)
    np.testing.assert_allclose(grid, recorded[f"{NAME}_grid"], atol=1e-5)
    np.testing.assert_allclose(drawn / drawn.abs().mean(), recorded[f"{NAME}_ins_norm"], atol=1e-6)
    inside = grid.abs() < 1  # beyond, it is clamped
    smooth = (grid - identity_grid(32)) * 32 / 0.5
    np.testing.assert_allclose(smooth[inside], recorded[f"{NAME}_noise_grid"][inside], atol=1e-4)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", KINDS)
def test_warps_as_the_official_code_does(kind: str) -> None:
    recorded = oracle("attacks/wanet")
    found = warp(recorded[f"{NAME}_grid"])(recorded_inputs(kind))
    np.testing.assert_allclose(found, recorded[f"{NAME}_bd_{kind}"], atol=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", KINDS)
def test_noise_mode_as_the_official_code_does(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = oracle("attacks/wanet")
    noise = torch.from_numpy(recorded[f"{NAME}_cross_noise"])
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: (noise + 1) / 2)
    found = NoiseMode(warp(recorded[f"{NAME}_grid"]), None)(recorded_inputs(kind))
    np.testing.assert_allclose(
        found, recorded[f"{NAME}_cross_{kind}"], atol=2e-5 if kind.endswith("unit") else 1e-4
    )
    exact = warp(recorded[f"{NAME}_grid_cross"][:1])(
        recorded_inputs(kind)[:1]
    )  # the grid itself, of the first image
    np.testing.assert_allclose(found[:1], exact, atol=1e-4)


def sampled(image: np.ndarray, x: float, y: float) -> float:
    """Bilinear value of a (side, side) picture at a point of [-1,1]^2 whose corners are pixel
    centres.
    """
    side = image.shape[0]
    column, row = (x + 1) / 2 * (side - 1), (y + 1) / 2 * (side - 1)
    left, top = min(int(column), side - 2), min(int(row), side - 2)
    right_share, low_share = column - left, row - top
    upper = image[top, left] * (1 - right_share) + image[top, left + 1] * right_share
    lower = image[top + 1, left] * (1 - right_share) + image[top + 1, left + 1] * right_share
    return float(upper * (1 - low_share) + lower * low_share)


def test_the_formula_restated_pixel_by_pixel() -> None:
    generator = torch.Generator().manual_seed(0)
    side, s = 10, 0.75
    drawn = torch.rand(1, 2, 3, 3, generator=generator) * 2 - 1
    grid = warp_grid(drawn, side, s, 1.0)
    smooth = torch.nn.functional.interpolate(
        drawn / drawn.abs().mean(), side, mode="bicubic", align_corners=True
    )
    image = torch.rand(1, 1, side, side, generator=generator)
    found = warp(grid)(image)[0, 0]
    for row in range(side):
        for column in range(side):
            x = -1 + 2 * column / (side - 1) + s * float(smooth[0, 0, row, column]) / side
            y = -1 + 2 * row / (side - 1) + s * float(smooth[0, 1, row, column]) / side
            x, y = max(-1.0, min(1.0, x)), max(-1.0, min(1.0, y))
            assert found[row, column] == pytest.approx(sampled(image[0, 0].numpy(), x, y), abs=1e-5)


def test_the_identity_grid_changes_nothing() -> None:
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(Warp(16)(images), images, atol=1e-5, rtol=0)


def test_the_warp_moves_by_less_than_a_pixel() -> None:
    drawn = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    moved = (warp_grid(drawn, 32, 0.5, 1.0) - identity_grid(32)).abs().max() * 31 / 2
    assert 0.1 < float(moved) < 1.0


def test_noise_mode_differs_from_image_to_image_and_needs_no_generator() -> None:
    image = torch.rand(1, 3, 16, 16).expand(2, -1, -1, -1)
    found = NoiseMode(Warp(16), None)(image)
    assert not torch.equal(found[0], found[1])
    assert math.isclose(float(found.mean()), float(image.mean()), abs_tol=0.05)


@pytest.mark.parametrize(
    ("attack", "task", "reason"),
    [
        (WaNet(), Task("any", 10, 32, 16, 3, 100), "square"),
        (WaNet(target=11), TASK, "no class"),
    ],
)
def test_says_what_cannot_work(attack: WaNet, task: Task, reason: str) -> None:
    assert reason in str(attack.compatible(Context(task)))


class Bench:
    """An attacker's access that shows the batch mix instead of training."""

    task, device = TASK, "cpu"
    recipe = Recipe(batch=128)
    train: ImageSet | None = None

    def __init__(self, attack: WaNet) -> None:
        self.label_table = tuple(attack.label_table(10))
        self.mix = None

    def generator(self, stream: str) -> torch.Generator:
        return torch.Generator().manual_seed(3)

    def selection(self) -> torch.Generator:
        return torch.Generator().manual_seed(4)

    def fresh_model(self) -> torch.nn.Module:
        return torch.nn.Identity()

    def fit(self, model: torch.nn.Module, data: object, before_augment: object) -> None:
        self.mix = before_augment


def mixed(attack: WaNet, labels: torch.Tensor) -> tuple[torch.Tensor, Batch, torch.nn.Module]:
    """Images before, the batch after, the trigger."""
    access = Bench(attack)
    trigger = attack.trigger(TASK)
    attack.craft(access, trigger)
    attack.implant(access, trigger)
    images = torch.rand(len(labels), 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return images, access.mix(Batch(images, labels, torch.arange(len(labels)), 0, 0)), trigger


def test_a_batch_holds_triggered_noisy_and_clean_images() -> None:
    """12 of 128 with the trigger and the target label, 24 in noise mode and 92 clean with their own
    labels.
    """
    labels = torch.arange(128) % 10
    images, batch, trigger = mixed(WaNet(target=7), labels)
    torch.testing.assert_close(batch.images[:12], trigger(images[:12]))
    assert batch.labels[:12].tolist() == [7] * 12
    assert torch.equal(batch.labels[12:], labels[12:])
    assert torch.equal(batch.images[36:], images[36:])
    changed = (batch.images[12:36] - images[12:36]).abs().amax((1, 2, 3))
    assert float(changed.min()) > 0
    assert not torch.allclose(batch.images[12:36], trigger(images[12:36]), atol=1e-3)
    assert torch.equal(labels, torch.arange(128) % 10), "the batch's own labels are left alone"


def test_the_last_small_batch_keeps_the_shares() -> None:
    """8 of 80, then 16."""
    images, batch, _ = mixed(WaNet(), torch.ones(80, dtype=torch.int64))
    assert batch.labels.tolist() == [0] * 8 + [1] * 72
    assert torch.equal(batch.images[24:], images[24:])


def test_classes_that_are_not_attacked_stay_clean() -> None:
    labels = torch.tensor([1, 2] * 64)
    images, batch, trigger = mixed(
        WaNet(label_map="source-specific", sources=(1,), target=0), labels
    )
    assert batch.labels[:12].tolist() == [0, 2] * 6
    assert torch.equal(batch.images[1:12:2], images[1:12:2])
    torch.testing.assert_close(batch.images[0:12:2], trigger(images[0:12:2]))


def test_the_exported_set_holds_noise_mode_images_as_cover() -> None:
    """4 of 40 under the warp with the target label, 8 in noise mode with their own."""
    attack = WaNet(target=7, s=2.0)
    access, trigger = Bench(attack), attack.trigger(TASK)
    attack.craft(access, trigger)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, 32, 32, 3), dtype=torch.uint8, generator=generator)
    access.train = ImageSet(images, torch.arange(40) % 10)
    made = attack.poison(access, trigger)
    order = torch.randperm(40, generator=access.selection())
    assert torch.equal(made.indices, order[:12])
    assert made.cover.tolist() == [False] * 4 + [True] * 8
    assert made.labels.tolist() == [7] * 4 + (order[4:12] % 10).tolist()
    assert torch.equal(made.images[:4], stamp(trigger, images[order[:4]]))
    assert (made.images[4:] != images[order[4:12]]).flatten(1).any(1).all()
    assert not torch.equal(made.images[4:], stamp(trigger, images[order[4:12]]))
    assert made.rate(40) == 0.1


def test_a_rate_below_one_image_of_a_batch_is_refused() -> None:
    """A victim that never saw the trigger would pass for one whose backdoor was removed."""
    with pytest.raises(
        Incompatible, match=r"poison_rate 0.007 of batches of 100 triggers no image"
    ):
        WaNet(poison_rate=0.007).implant(Bench(WaNet()), WaNet().trigger(TASK))
    WaNet(poison_rate=0.0).implant(Bench(WaNet()), WaNet().trigger(TASK))


@pytest.mark.parametrize(
    ("count", "batch", "fits"), [(48, 128, False), (128, 64, False), (128, 100, True)]
)
def test_a_plan_tells_it_by_the_batch_that_is_really_used(
    count: int, batch: int, fits: bool
) -> None:
    context = Context(replace(TASK, train_count=count), recipe=Recipe(batch=batch))
    reason = WaNet(poison_rate=0.015).compatible(context)
    assert (reason is None) == fits
    if not fits:
        assert f"of batches of {min(count, batch)} triggers no image" in str(reason)
    assert WaNet(poison_rate=0.0).compatible(context) is None


def test_refuses_more_than_a_whole_batch() -> None:
    with pytest.raises(ValidationError, match="whole batch"):
        WaNet(poison_rate=0.5)


def test_bcu_s_pictures_go_through_bytes() -> None:
    bcu = WaNet.model_validate_json(json.dumps(WaNet.presets["bcu"]))
    assert (WaNet().test_quantise, bcu.test_quantise) == ("none", "truncate")
