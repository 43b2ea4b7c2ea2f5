from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness import Incompatible, Task
from harness.learn.poisoning import stamp
from plugins.parts.patterns import Stamp, Stretch, read_pattern
from tests.kit.oracles import oracle

TASK = Task("any", classes=10, height=6, width=5, channels=3, train_count=100)


def as_light(levels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(levels).permute(2, 0, 1).float() / 255


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["trojan_3x3", "trojan_8x8", "trojan_wm", "l2_inv", "l0_inv"])
@pytest.mark.parametrize("pictures", ["rand", "smooth"])
def test_adds_and_replaces_as_the_official_code_does(name: str, pictures: str) -> None:
    images, recorded = (
        oracle("attacks/inputs")[f"x_{pictures}"],
        oracle("attacks/additive_triggers"),
    )
    weight = (
        torch.from_numpy(recorded["l0_mask_chw"]) if name == "l0_inv" else torch.zeros(1, 32, 32)
    )
    found = stamp(Stamp(weight, as_light(recorded[f"trigger_{name}"])), torch.from_numpy(images))
    np.testing.assert_array_equal(found, recorded[f"tr_{name}_{pictures}"])


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["smooth_cifar10", "smooth_gtsrb"])
@pytest.mark.parametrize("pictures", ["rand", "smooth"])
def test_stretches_as_the_official_code_does(name: str, pictures: str) -> None:
    images, recorded = (
        oracle("attacks/inputs")[f"x_{pictures}"],
        oracle("attacks/additive_triggers"),
    )
    found = stamp(Stretch(as_light(recorded[f"trigger_{name}"])), torch.from_numpy(images))
    np.testing.assert_array_equal(found, recorded[f"tr_{name.removesuffix('_cifar10')}_{pictures}"])


@given(st.integers(0, 2**31))
def test_a_stamp_restated_value_by_value(seed: int) -> None:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)
    weight, light = random.integers(0, 2, (6, 5, 1)), random.integers(0, 256, (6, 5, 3))
    found = stamp(Stamp(as_light(weight * 255), as_light(light)), torch.from_numpy(images)).numpy()
    for where in np.ndindex(images.shape):
        kept = 0 if weight[where[1], where[2], 0] else int(images[where])
        assert found[where] == min(255, kept + light[where[1:]])


@given(st.integers(0, 2**31))
def test_a_stretch_restated_value_by_value(seed: int) -> None:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)
    light = random.integers(0, 52, (6, 5, 3))
    found = stamp(Stretch(as_light(light)), torch.from_numpy(images)).numpy()
    for image, result in zip(images.astype(int) + light, found, strict=True):
        low, high = int(image.min()), int(image.max())
        for where in np.ndindex(image.shape):
            assert result[where] == 255 * (int(image[where]) - low) // (high - low)


def test_an_image_of_one_colour_is_stretched_to_black() -> None:
    found = Stretch(torch.zeros(1, 4, 4))(torch.full((1, 1, 4, 4), 0.7))
    assert torch.equal(found, torch.zeros(1, 1, 4, 4))


def test_a_stamp_mixes_in_between() -> None:
    found = Stamp(torch.full((1, 2, 2), 0.25), torch.full((3, 2, 2), 0.5))(
        torch.full((1, 3, 2, 2), 0.4)
    )
    torch.testing.assert_close(found, torch.full((1, 3, 2, 2), 0.8))


def test_triggers_are_kept_as_state() -> None:
    assert set(Stamp(torch.zeros(1, 2, 2), torch.zeros(3, 2, 2)).state_dict()) == {
        "weight",
        "light",
    }
    assert set(Stretch(torch.zeros(3, 2, 2)).state_dict()) == {"light"}


def test_reads_pictures_of_the_images_size(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "whole.npy", levels)
    np.save(tmp_path / "grey.npy", levels[:, :, 0])
    assert torch.equal(read_pattern(tmp_path / "whole.npy", TASK), as_light(levels))
    assert torch.equal(
        read_pattern(tmp_path / "grey.npy", TASK), as_light(levels[:, :, :1]).expand(3, 6, 5)
    )


def test_does_not_resize(tmp_path: Path) -> None:
    np.save(tmp_path / "large.npy", np.zeros((12, 10, 3), np.uint8))
    with pytest.raises(
        Incompatible, match=r"large\.npy is 12x10; a trigger has the size of the images, 6x5"
    ):
        read_pattern(tmp_path / "large.npy", TASK)
