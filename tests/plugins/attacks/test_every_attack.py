"""What holds for every attack in the box: its trigger outlives its process, its poisoned set is
what it says.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.access.granted import AttackAccess
from harness.components import Attack, PoisoningAttack, TargetedAttack, load_component
from harness.components.spec import ComponentSpec
from harness.learn.images import to_float
from harness.learn.poisoning import PoisonedSet
from harness.learn.weights import save_state
from harness.stages.poison import check
from plugins.parts.cyclegan import Generator
from plugins.parts.steganography import Steganography
from tests.kit.fake_plugins import boxed
from tests.kit.learned import clean_network, crafting, pictures
from tests.kit.places import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN = pictures(240, channels=3)
CLASSES, EACH = 3, 80
ELSEWHERE = {"none", "pretrained", "pretrained-clean"}
"""Attacks without a trigger of their own."""
CLEAN_LABEL = {"lc", "sig"}
IN_BATCHES = {"wanet": 2.0, "iab": 1.0}
"""Attacks that stamp batches, and the cover that they export for each poisoned image."""

HIDING = {"bits": 4, "resolution": 16}
SHORT: Mapping[str, dict[str, Any]] = {
    "dfst": {"per_class": 8},
    "iab": {"stages": 1, "channels": 2, "mask_epochs": 1},
    "invisible": {"encoder": {"name": "steganography", **HIDING}},
    "l0-invisible": {"steps": 3, "pixels": 4},
    "l2-invisible": {"steps": 3},
    "lba": {"steps": 3, "share": 0.4},
    "lc": {"layout": "bottom-right", "steps": 2},
    "smooth": {"passes": 1, "deviation": 1},
    "trojan-sq": {"steps": 3, "margin": 1},
    "trojan-wm": {"steps": 3},
}
OPEN_AGAIN = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from harness import Task
from harness.components import load_component
from harness.components.spec import ComponentSpec
from harness.learn.evaluation import stamped
from harness.stages.materials import open_trigger
torch.set_num_threads(1)
folder = Path(sys.argv[1])
task = Task("noise", classes=3, height=8, width=8, channels=3, train_count=30)
pixels, found = load_file(folder / "pixels.safetensors")["pixels"], {}
for name, spec in json.loads((folder / "specs.json").read_text()).items():
    attack = load_component(ComponentSpec(spec["target"], spec["params"]))
    trigger = open_trigger(folder / f"{name}.safetensors", attack, task, "cpu")
    with torch.no_grad():
        found[name] = stamped(trigger, pixels, attack.test_quantise).contiguous()
save_file(found, folder / "found.safetensors")
"""


@cache
def targets() -> dict[str, str]:
    return {name: target for name, target in boxed("attack").items() if name not in ELSEWHERE}


NAMES = sorted(targets())
DIRTY = [name for name in NAMES if name not in CLEAN_LABEL]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("attacks")
    for name, array in (
        ("picture", np.arange(64).reshape(8, 8) * 4),
        ("mask", np.full((8, 8), 255)),
    ):
        np.save(made / f"{name}.npy", array.astype(np.uint8))
    return made


@pytest.fixture(scope="module")
def parts() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    hiding, task = Steganography.model_validate(HIDING), crafting(PoisoningAttack(), TRAIN).task
    pair, style = hiding.build(task, None), Generator(3)
    pair.initialise()
    return {"benign": clean_network(3), "robust": clean_network(3), "encoder": pair, "style": style}


def spec(name: str, folder: Path, **given: Any) -> dict[str, Any]:
    own = (
        {key: str(folder / f"{key}.npy") for key in ("picture", "mask")}
        if name == "patch"
        else SHORT.get(name, {})
    )
    return {"target": targets()[name], "params": {**own, **given}}


def crafted(
    name: str, folder: Path, parts: Mapping[str, nn.Module], **given: Any
) -> tuple[TargetedAttack, AttackAccess, nn.Module]:
    described = spec(name, folder, **given)
    attack = load_component(ComponentSpec(described["target"], described["params"]))
    assert isinstance(attack, TargetedAttack)
    access = crafting(attack, TRAIN, parts)  # type: ignore[arg-type]
    trigger = attack.trigger(access.task)
    assert trigger is not None
    attack.craft(access, trigger)
    return attack, access, trigger.eval()


def poisoned(attack: Attack, access: AttackAccess, trigger: nn.Module) -> PoisonedSet:
    made = attack.poison(access, trigger)
    check(made, TRAIN, CLASSES)
    return made


def test_another_process_applies_a_saved_trigger_identically(
    folder: Path, parts: dict[str, nn.Module]
) -> None:
    """To the bit, on images that it was not made on, as test images are stamped."""
    pixels, here = to_float(pictures(12, spread=40, channels=3).images).contiguous(), {}
    for name in NAMES:
        attack, _, trigger = crafted(name, folder, parts)
        save_state(trigger, folder / f"{name}.safetensors")
        with torch.no_grad():
            here[name] = through(trigger, pixels, attack)
    save_file({"pixels": pixels}, folder / "pixels.safetensors")
    (folder / "specs.json").write_text(json.dumps({name: spec(name, folder) for name in NAMES}))
    subprocess.run([sys.executable, "-c", OPEN_AGAIN, str(folder)], check=True, cwd=ROOT)
    found = load_file(folder / "found.safetensors")
    for name in NAMES:
        assert torch.equal(found[name], here[name]), name
        assert not torch.equal(here[name], pixels), f"{name} changes nothing"


def through(trigger: nn.Module, pixels: Tensor, attack: Attack) -> Tensor:
    from harness.learn.evaluation import stamped

    return stamped(trigger, pixels, attack.test_quantise).contiguous()


@pytest.mark.parametrize("kind", ["all-to-one", "all-to-all", "source-specific", "table"])
@pytest.mark.parametrize("name", DIRTY)
def test_a_dirty_label_attack_follows_its_label_map(
    name: str, kind: str, folder: Path, parts: dict[str, nn.Module]
) -> None:
    given: dict[str, Any] = {"label_map": kind, "target": 1}
    if kind == "source-specific":
        given["sources"] = [2]
    if kind == "table":
        given["label_map"] = [2, -1, 0]
    if name == "lba" and kind in ("all-to-all", "table"):
        with pytest.raises(ValueError, match="one target"):  # whose features it imitates
            crafted(name, folder, parts, **given)
        return
    attack, access, trigger = crafted(name, folder, parts, **given)
    made, true = poisoned(attack, access, trigger), TRAIN.labels
    assert true is not None
    wanted = {
        "all-to-one": [1, 1, 1],
        "all-to-all": [1, 2, 0],
        "source-specific": [-1, -1, 1],
        "table": [2, -1, 0],
    }[kind]
    own = true[made.indices][made.poisoned]
    assert len(own)
    assert made.labels[made.poisoned].tolist() == [wanted[label] for label in own.tolist()]
    assert min(wanted[label] for label in own.tolist()) >= 0, (
        "an image of a class that is not attacked"
    )
    merged, mask = made.merge(TRAIN), made.mask(len(TRAIN))
    assert merged.labels is not None
    clean = (~mask[: len(TRAIN)]).nonzero().squeeze(1)
    assert torch.equal(merged.labels[clean], true[clean])


@pytest.mark.parametrize("name", NAMES)
def test_the_exported_set_has_the_rate_that_was_asked_for(
    name: str, folder: Path, parts: dict[str, nn.Module]
) -> None:
    given = {} if name == "dfst" else {"poison_rate": 0.25}
    attack, access, trigger = crafted(name, folder, parts, **given)
    made = poisoned(attack, access, trigger)
    if name == "dfst":
        assert made.rate(len(TRAIN)) == 8 * CLASSES / len(TRAIN)
        assert len(made.merge(TRAIN)) == len(TRAIN) + 8 * CLASSES
        return
    of = EACH if name in CLEAN_LABEL else len(TRAIN)
    assert int(made.mask(len(TRAIN)).sum()) == 0.25 * of
    assert made.rate(len(TRAIN)) == 0.25 * of / len(TRAIN)
    assert int((~made.poisoned).sum()) == 0.25 * of * IN_BATCHES.get(name, 0.0)
    changed = (made.merge(TRAIN).images != TRAIN.images).flatten(1).any(1)
    assert set(changed.nonzero().squeeze(1).tolist()) <= set(made.indices.tolist())


@pytest.mark.parametrize("name", sorted(CLEAN_LABEL))
def test_a_clean_label_attack_keeps_labels_under_any_map(
    name: str, folder: Path, parts: dict[str, nn.Module]
) -> None:
    """Which classes are attacked says what is tested, not what is poisoned: that is the target's
    class.
    """
    attack, access, trigger = crafted(
        name, folder, parts, label_map="source-specific", sources=[2], target=1
    )
    made = poisoned(attack, access, trigger)
    assert TRAIN.labels is not None
    assert set(made.labels.tolist()) == set(TRAIN.labels[made.indices].tolist()) == {1}
    assert access.label_table == (-1, -1, 1)
    for several in ("all-to-all", [2, 2, 1]):
        with pytest.raises(ValueError, match="poisons images of one target"):
            crafted(name, folder, parts, label_map=several)
