"""Victims that somebody else made."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from harness import Context, Task
from harness.access.context import Coordinates
from harness.access.granted import AttackAccess
from harness.components import load_component
from harness.components.spec import ComponentSpec
from harness.learn.evaluation import predict
from plugins.attacks.badnets import BadNets
from plugins.attacks.pretrained import Pretrained
from plugins.attacks.wanet import WaNet
from plugins.models.small_cnn import SmallCNN
from tests.kit.command import Bench
from tests.kit.learned import Tiny, pictures, stage_context
from tests.kit.outside import outside

TASK = Task("npz", classes=3, height=8, width=8, channels=1, train_count=0)
CORNER = {"size": 3, "target": 2}

GRID = """
seeds = [0, 1]
[[dataset]]
name = "npz"
path = "test.npz"
pool_from = "test"
pool = 10
[[model]]
name = "small-cnn"
width = 8
[[attack]]
name = "pretrained"
weights = "victim.safetensors"
rename = {"module\\\\.(.*)" = "\\\\1"}
attack = {name = "badnets", size = 3, target = 2}
[[attack]]
name = "pretrained"
as = "picture"
weights = "victim.safetensors"
rename = {"module\\\\.(.*)" = "\\\\1"}
attack = {name = "patch", picture = "white.npy", mask = "mask.npy", target = 2}
[[attack]]
name = "pretrained-clean"
weights = "victim.safetensors"
rename = {"module\\\\.(.*)" = "\\\\1"}
[[attack]]
name = "pretrained"
as = "misfit"
weights = "victim.safetensors"
attack = {name = "badnets", size = 3, target = 2}
[[attack]]
name = "badnets"
[[defense]]
name = "none"
[[defense]]
name = "ft"
epochs = 1
[[defense]]
name = "retrain"
[[metric]]
name = "acc"
[[metric]]
name = "asr"
"""


def victim() -> torch.nn.Module:
    torch.manual_seed(3)
    return SmallCNN(width=8).build(TASK).eval()


@pytest.mark.usefixtures("one_thread")
def test_it_enters_a_grid_whose_dataset_has_no_training_images(
    bench: Bench, tmp_path: Path
) -> None:
    data, net = pictures(60), victim()
    np.savez(
        tmp_path / "test.npz", test_images=data.images.numpy(), test_labels=data.labels.numpy()
    )
    save_file(
        {f"module.{name}": value for name, value in net.state_dict().items()},
        tmp_path / "victim.safetensors",
    )
    np.save(tmp_path / "white.npy", np.full((8, 8), 255, np.uint8))
    mask = np.zeros((8, 8), np.uint8)
    mask[5:, 5:] = 255
    np.save(tmp_path / "mask.npy", mask)
    (tmp_path / "grid.toml").write_text(GRID)
    result = bench("run", "grid.toml", "--store", tmp_path / "store", cwd=tmp_path)
    assert result.returncode == 1, "the one that does not fit fails"
    assert "does not fit" in result.stderr
    assert "module." in result.stderr
    table = bench(
        "report", "grid.toml", "--store", tmp_path / "store", "--format", "csv", cwd=tmp_path
    ).stdout
    rows = {
        (row["attack"], row["defense"], row["metric"]): row
        for row in csv.DictReader(io.StringIO(table))
        if row["victim_seed"] == "0"
    }
    undefended = [
        rows[attack, "none", "acc"]["value"]
        for attack in ("pretrained", "picture", "pretrained-clean")
    ]
    assert len(set(undefended)) == 1, "one network"
    assert rows["pretrained-clean", "none", "asr"]["status"] == "incompatible"
    assert rows["pretrained", "ft", "acc"]["status"] == "done"
    assert (
        "no training images, which attack 'badnets' needs"
        in rows["badnets", "none", "acc"]["reason"]
    )
    assert (
        "no training images, which defense 'retrain' needs"
        in rows["pretrained", "retrain", "acc"]["reason"]
    )
    assert rows["misfit", "none", "acc"]["status"] == "failed"


def with_trigger(
    attack: str, inner: dict[str, object], folder: Path, **fields: object
) -> Pretrained:
    """As the host puts an attack in place."""
    targets = {"badnets": "plugins.attacks.badnets:BadNets", "wanet": "plugins.attacks.wanet:WaNet"}
    weights = folder / "victim.safetensors"
    save_file(Tiny().build(Tiny.task).state_dict(), weights)
    placed = {
        "component": {"kind": "attack", "name": attack, "target": targets[attack], "params": inner}
    }
    params = {"weights": str(weights), "attack": placed, **fields}
    made = load_component(ComponentSpec("plugins.attacks.pretrained:Pretrained", params))
    assert isinstance(made, Pretrained)
    return made


def access(attack: Pretrained) -> AttackAccess:
    coordinates = Coordinates(replicate=None, dataset="noise", stage="poison", component="any")
    return AttackAccess(stage_context(Tiny(), "victim"), attack, pictures(), None, coordinates)


def test_it_answers_as_the_network_in_the_file(tmp_path: Path) -> None:
    attack = with_trigger("badnets", CORNER, tmp_path)
    torch.manual_seed(9)
    made = attack.implant(access(attack), attack.trigger(Tiny.task))
    other = Tiny().build(Tiny.task)
    other.load_state_dict(load_file(tmp_path / "victim.safetensors"))
    assert torch.equal(predict(made, pictures().images)[1], predict(other, pictures().images)[1])


def test_trigger_and_labels_are_those_of_the_attack(tmp_path: Path) -> None:
    attack, inner = with_trigger("badnets", CORNER, tmp_path), BadNets(**CORNER)
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(attack.trigger(TASK)(images), inner.trigger(TASK)(images))
    assert attack.label_table(3) == [2, 2, 2]
    assert attack.labelling == inner.labelling
    assert attack.test_quantise == inner.test_quantise
    poisoned = attack.poison(access(attack), attack.trigger(TASK))
    assert len(poisoned) == 3, "a tenth of 30"
    assert set(poisoned.labels.tolist()) == {2}


def test_a_trigger_that_is_made_with_the_victim_is_brought(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="bring that, too, as trigger_state"):
        with_trigger("wanet", {}, tmp_path)
    grid = torch.rand(1, 8, 8, 2) * 2 - 1
    save_file({"grid": grid}, tmp_path / "grid.safetensors")
    attack = with_trigger("wanet", {}, tmp_path, trigger_state=str(tmp_path / "grid.safetensors"))
    trigger = attack.trigger(TASK)
    attack.craft(access(attack), trigger)
    assert torch.equal(trigger.get_buffer("grid"), grid)
    assert set(attack.variants(trigger)) == set(WaNet().variants(trigger))


def test_a_wrong_number_of_classes_is_told_by_the_plan(tmp_path: Path) -> None:
    attack = with_trigger("badnets", CORNER, tmp_path)
    assert attack.compatible(Context(TASK)) is None
    other = Context(dataclasses.replace(TASK, classes=5))
    reason = attack.compatible(other)
    assert reason is not None
    assert "victim.safetensors is no network for 5 classes" in reason
    assert "say classes = 3 in [[dataset]]" in reason
    (tmp_path / "victim.safetensors").write_bytes(b"damaged")
    assert attack.compatible(other) is None, "the stage says so, with its log"


def test_a_clean_network_has_no_trigger(tmp_path: Path) -> None:
    none = {
        "kind": "attack",
        "name": "none",
        "target": "plugins.attacks.none:NoAttack",
        "params": {},
    }
    with pytest.raises(ValidationError, match="a clean network is `pretrained-clean`"):
        Pretrained.model_validate_json(json.dumps({"weights": "w", "attack": {"component": none}}))


@pytest.mark.real
def test_the_released_victim_in_a_grid(bench: Bench, tmp_path: Path) -> None:
    weights = outside("BENCH_MODELS", "cifar10-smallvgg-badnets.safetensors")
    images = outside("BENCH_DATA", "cifar10.npz")
    (tmp_path / "grid.toml").write_text(
        f"""
        [[dataset]]
        name = "npz"
        path = "{images}"
        take = 100
        take_test = 1000
        [[model]]
        name = "smallvgg"
        [[attack]]
        name = "pretrained"
        weights = "{weights}"
        attack = {{name = "badnets", pattern = "white", size = 4, margin = 1, target = 8}}
        established = {{asr = 0.95, acc = 0.8}}
        [[defense]]
        name = "none"
        [[metric]]
        name = "acc"
        [[metric]]
        name = "asr"
        """
    )
    result = bench("run", "grid.toml", "--store", tmp_path / "store", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "not established" not in result.stdout
