"""A picture of one's own under a mask of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.learn.images import ImageSet, to_float
from harness.learn.poisoning import stamp
from plugins.attacks.patch import Patch
from tests.kit.learned import attacked, crafting, pictures
from tests.kit.oracles import oracle


def patch(folder: Path, picture: np.ndarray, mask: np.ndarray, **fields: object) -> Patch:
    for name, array in (("picture", picture), ("mask", mask)):
        np.save(folder / f"{name}.npy", array)
    files = {"picture": str(folder / "picture.npy"), "mask": str(folder / "mask.npy")}
    return Patch.model_validate_json(json.dumps({**files, **fields}))


def corner(side: int = 8) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[-3:, -3:] = 255
    return mask


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["rand", "smooth"])
def test_a_yellow_square_as_the_toolbox_behind_deck_stamps_it(kind: str, tmp_path: Path) -> None:
    recorded = oracle("attacks/badnets_patch")
    picture = (recorded["vault_polygon_pattern_chw"].transpose(1, 2, 0) * 255).astype(np.uint8)
    mask = np.zeros((32, 32), np.uint8)
    mask[4:8, 4:8] = 255
    attack = patch(tmp_path, picture, mask, when="after-augment", quantise="none")
    access = crafting(attack, ImageSet(torch.from_numpy(oracle("attacks/inputs")[f"x_{kind}"])))
    trigger = attack.trigger(access.task)
    attack.craft(access, trigger)
    np.testing.assert_allclose(
        trigger(to_float(access.train.images)), recorded[f"vault_polygon_{kind}_nchw01"], atol=1e-6
    )


@pytest.mark.parametrize("alpha", [1.0, 0.6])
def test_the_mask_says_how_much_of_the_picture_shows(alpha: float, tmp_path: Path) -> None:
    """Restated pixel by pixel: x + a m (p - x), without its fraction."""
    draw = np.random.default_rng(0)
    picture, mask = (draw.integers(0, 256, (8, 8), dtype=np.uint8) for _ in range(2))
    attack = patch(tmp_path, picture, mask, alpha=alpha)
    train = pictures(6)
    trigger = attack.trigger(crafting(attack, train).task)
    attack.craft(crafting(attack, train), trigger)
    found = stamp(trigger, train.images).numpy()
    pixels = train.images.numpy()[..., 0].astype(float)
    expected = pixels + alpha * mask / 255 * (picture.astype(float) - pixels)
    assert (np.abs(found[..., 0] - expected) < 1.001).all()
    assert (found[..., 0] <= expected + 1e-2).all(), "truncated"


def test_other_sizes_are_resized(tmp_path: Path) -> None:
    attack = patch(
        tmp_path, np.full((16, 16, 3), 255, np.uint8), np.kron(corner(), np.ones((2, 2), np.uint8))
    )
    access = crafting(attack, pictures(6))
    trigger = attack.trigger(access.task)
    attack.craft(access, trigger)
    white = trigger(torch.zeros(1, 1, 8, 8))
    assert torch.equal(white[0, 0] > 0.5, torch.from_numpy(corner()) > 0)


def test_an_empty_mask_is_refused(tmp_path: Path) -> None:
    attack = patch(tmp_path, corner(), np.zeros((8, 8), np.uint8))
    access = crafting(attack, pictures(6))
    with pytest.raises(ValueError, match=r"mask\.npy: the mask is 0 everywhere"):
        attack.craft(access, attack.trigger(access.task))


@pytest.mark.parametrize("which", ["mask", "picture"])
def test_levels_of_0_and_1_are_refused_and_not_taken_for_a_faint_picture(
    which: str, tmp_path: Path
) -> None:
    arrays = {"mask": corner(), "picture": corner()}
    arrays[which] = corner() // 255
    attack = patch(tmp_path, arrays["picture"], arrays["mask"])
    access = crafting(attack, pictures(6))
    with pytest.raises(ValueError, match=rf"{which}\.npy: its levels are 0 and 1, .* by 255"):
        attack.craft(access, attack.trigger(access.task))


def test_a_mask_of_one_bit_covers_where_it_is_white(tmp_path: Path) -> None:
    Image.fromarray(corner() > 0).save(tmp_path / "bits.png")
    np.save(tmp_path / "white.npy", np.full((8, 8), 255, np.uint8))
    attack = Patch(picture=tmp_path / "white.npy", mask=tmp_path / "bits.png")
    access = crafting(attack, pictures(6))
    trigger = attack.trigger(access.task)
    attack.craft(access, trigger)
    assert torch.equal(trigger(torch.zeros(1, 1, 8, 8))[0, 0] == 1, torch.from_numpy(corner()) > 0)


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    attack = patch(tmp_path, corner(), corner())
    (tmp_path / "mask.npy").write_bytes((tmp_path / "mask.npy").read_bytes()[:40])
    access = crafting(attack, pictures(6))
    with pytest.raises(ValueError, match=r"mask\.npy: no picture"):
        attack.craft(access, attack.trigger(access.task))


@pytest.mark.usefixtures("one_thread")
def test_it_implants(tmp_path: Path) -> None:
    accuracy, success = attacked(patch(tmp_path, corner(), corner(), poison_rate=0.2), epochs=25)
    assert accuracy > 0.9
    assert success > 0.8
