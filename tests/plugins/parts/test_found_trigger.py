from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from harness import Context, Task
from harness.components import Reference, load_component
from harness.components.spec import ComponentSpec
from harness.errors import Undeclared
from harness.introspect.parameters import resolve
from harness.learn.poisoning import choose, stamp
from plugins.attacks.l0_invisible import L0Invisible
from plugins.attacks.l2_invisible import L2Invisible
from plugins.attacks.smooth import Smooth
from plugins.attacks.trojan_sq import TrojanSquare
from plugins.attacks.trojan_wm import TrojanWatermark
from plugins.parts.found_trigger import FoundTrigger
from tests.kit.learned import clean_network, crafting, pictures
from tests.kit.oracles import oracle

KINDS = [L0Invisible, L2Invisible, Smooth, TrojanSquare, TrojanWatermark]
SHORT: dict[type[FoundTrigger], dict[str, Any]] = {
    L0Invisible: {"steps": 3, "pixels": 4},
    L2Invisible: {"steps": 3},
    Smooth: {"passes": 1, "deviation": 1},
    TrojanSquare: {"steps": 3, "margin": 1},
    TrojanWatermark: {"steps": 3},
}
TASK = Task("any", classes=10, height=32, width=32, channels=3, train_count=100)


class Bare:
    """What `craft` asks for where a picture is given: nothing is drawn and no network is there."""

    task, device = TASK, "cpu"

    def part(self, name: str) -> Any:
        raise Undeclared(name)


def with_picture(kind: type[FoundTrigger], path: Path, **given: Any) -> FoundTrigger:
    return kind.model_validate_json(json.dumps({"picture": str(path), **given}))


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("kind", "picture", "key"),
    [
        (TrojanSquare, "trojan_3x3", "tr_trojan_3x3"),
        (TrojanSquare, "trojan_8x8", "tr_trojan_8x8"),
        (TrojanWatermark, "trojan_wm", "tr_trojan_wm"),
        (L0Invisible, "l0_inv", "tr_l0_inv"),
        (L2Invisible, "l2_inv", "tr_l2_inv"),
        (Smooth, "smooth_cifar10", "tr_smooth"),
        (Smooth, "smooth_gtsrb", "tr_smooth_gtsrb"),
    ],
)
@pytest.mark.parametrize("images", ["rand", "smooth"])
def test_stamps_official_triggers_as_official_code_does(
    kind: type[FoundTrigger], picture: str, key: str, images: str, tmp_path: Path
) -> None:
    recorded = oracle("attacks/additive_triggers")
    np.save(tmp_path / "trigger.npy", recorded[f"trigger_{picture}"])
    attack = with_picture(kind, tmp_path / "trigger.npy")
    trigger = attack.trigger(TASK)
    attack.craft(Bare(), trigger)
    found = stamp(trigger, torch.from_numpy(oracle("attacks/inputs")[f"x_{images}"]))
    np.testing.assert_array_equal(found, recorded[f"{key}_{images}"])


@pytest.mark.oracle
@pytest.mark.parametrize("images", ["rand", "smooth"])
def test_trojan_sq_clips_where_abl_s_code_wraps(images: str, tmp_path: Path) -> None:
    """ABL adds in floats and casts without clipping: what passes 255 turns dark. Everywhere else
    the two agree.
    """
    recorded, pixels = oracle("attacks/additive_triggers"), oracle("attacks/inputs")[f"x_{images}"]
    light = recorded["abl_trojan_pattern_chw"].transpose(1, 2, 0)
    np.save(tmp_path / "trigger.npy", light.astype(np.uint8))
    attack = with_picture(TrojanSquare, tmp_path / "trigger.npy")
    trigger = attack.trigger(TASK)
    attack.craft(Bare(), trigger)
    found, wrapped = (
        stamp(trigger, torch.from_numpy(pixels)).numpy(),
        recorded[f"abl_trojanTrigger_{images}"],
    )
    beyond = pixels + light >= 256
    assert beyond.any()
    assert (found[beyond] == 255).all()
    # the picture has dropped the fractions that ABL still adds
    np.testing.assert_allclose(found[~beyond].astype(int), wrapped[~beyond].astype(int), atol=1)
    assert (wrapped[beyond] < 128).any()


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("kind", "picture", "key"),
    [
        (TrojanSquare, "trojan_8x8", "ibau_trojan_sq"),
        (TrojanWatermark, "trojan_wm", "ibau_trojan_wm"),
        (L0Invisible, "l0_inv", "ibau_l0_inv"),
        (L2Invisible, "l2_inv", "ibau_l2_inv"),
    ],
)
@pytest.mark.parametrize("images", ["rand", "smooth"])
def test_floats_agree_too(
    kind: type[FoundTrigger], picture: str, key: str, images: str, tmp_path: Path
) -> None:
    recorded = oracle("attacks/additive_triggers")
    np.save(tmp_path / "trigger.npy", recorded[f"trigger_{picture}"])
    attack = with_picture(kind, tmp_path / "trigger.npy", quantise="none", when="before-augment")
    trigger = attack.trigger(TASK)
    attack.craft(Bare(), trigger)
    found = trigger(
        torch.from_numpy(oracle("attacks/inputs")[f"x_{images}"]).permute(0, 3, 1, 2) / 255
    )
    np.testing.assert_allclose(found.permute(0, 2, 3, 1), recorded[f"{key}_{images}"], atol=1e-6)


@pytest.mark.oracle
def test_the_official_mask_of_l0_is_the_default_and_may_be_a_file(tmp_path: Path) -> None:
    recorded = oracle("attacks/additive_triggers")
    np.save(tmp_path / "trigger.npy", recorded["trigger_l0_inv"])
    mask = (recorded["l0_mask_chw"].transpose(1, 2, 0) * 255).astype(np.uint8)
    np.save(tmp_path / "mask.npy", mask)
    for given in ({}, {"mask": str(tmp_path / "mask.npy")}):
        attack = with_picture(L0Invisible, tmp_path / "trigger.npy", **given)
        trigger = attack.trigger(TASK)
        attack.craft(Bare(), trigger)
        np.testing.assert_array_equal(trigger.get_buffer("weight")[0], recorded["l0_mask_chw"][0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_does_without_a_network(kind: type[FoundTrigger], tmp_path: Path) -> None:
    assert kind().benign == Reference("part", "clean-model")
    attack = with_picture(kind, tmp_path / "any.npy")
    assert attack.benign is None
    again = kind.model_validate_json(attack.model_dump_json())
    assert again == attack


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_sees_the_network_only_where_it_is_used(
    kind: type[FoundTrigger], tmp_path: Path
) -> None:
    np.save(tmp_path / "any.npy", np.zeros((8, 8, 3), np.uint8))

    def told(**params: Any) -> dict[str, Any]:
        target = f"{kind.__module__}:{kind.__name__}"
        answer = resolve("attack", target, None, None, None, params, str(tmp_path), None)
        found: dict[str, Any] = answer["component"]
        return found

    assert set(told()["references"]) == {"benign"}
    ready = told(picture="any.npy")
    assert ready["references"] == {}
    assert set(ready["identity"]["picture"]) == {"sha256"}
    assert told()["needs"] == ready["needs"] == []
    assert load_component(ComponentSpec(f"{kind.__module__}:{kind.__name__}", ready["params"]))


@pytest.mark.parametrize("kind", KINDS)
def test_has_exactly_one_source(kind: type[FoundTrigger], tmp_path: Path) -> None:
    with pytest.raises(
        ValidationError, match="without a picture the trigger is found on a network"
    ):
        kind.model_validate_json('{"benign": null}')
    with pytest.raises(ValidationError, match="no network is expected"):
        with_picture(kind, tmp_path / "any.npy", benign={"name": "another"})


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", KINDS)
def test_each_replicate_finds_its_own_and_the_same_again(kind: type[FoundTrigger]) -> None:
    attack = kind(pictures=4, **SHORT[kind])
    network = clean_network(3)
    state = torch.get_rng_state()
    lights = []
    for replicate in (0, 0, 1):
        access = crafting(attack, pictures(60, channels=3), {"benign": network}, replicate)
        trigger = attack.trigger(access.task)
        attack.craft(access, trigger)
        lights.append(trigger.get_buffer("light"))
        assert access.images_processed > 0
    assert torch.equal(lights[0], lights[1])
    assert not torch.equal(lights[0], lights[2])
    assert all(bool(((light >= 0) & (light <= 1)).all()) for light in lights)
    assert all(not light.requires_grad for light in lights)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", KINDS)
def test_the_papers_poison_the_first_images_of_other_classes(kind: type[FoundTrigger]) -> None:
    attack = kind.model_validate_json(json.dumps(kind.presets["trap"]))
    labels = torch.arange(100) % 10
    chosen = choose(attack.rule(10), labels, torch.Generator().manual_seed(0))
    assert chosen.tolist() == [index for index in range(100) if index % 10][:10]
    signs = kind.model_validate_json(
        json.dumps({**kind.presets["trap"], **kind.presets["trap/gtsrb"]})
    )
    assert signs.target == 1
    by_class = torch.arange(430) // 10  # as GTSRB comes, which the paper's code shuffles first
    assert (
        len(by_class[choose(signs.rule(43), by_class, torch.Generator().manual_seed(0))].unique())
        > 20
    )
    assert attack.compatible(Context(TASK)) is None
