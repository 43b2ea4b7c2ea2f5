"""Networks that somebody else defended."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from harness import Context, Task
from plugins.defenses.pretrained import PretrainedDefense
from plugins.models.small_cnn import SmallCNN
from tests.kit.command import Bench
from tests.kit.learned import pictures

TASK = Task("npz", classes=3, height=8, width=8, channels=1, train_count=0)

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
name = "pretrained-clean"
weights = "victim.safetensors"
[[attack]]
name = "pretrained-clean"
as = "theirs"
weights = "defended.safetensors"
rename = {"net\\\\.(.*)" = "\\\\1"}
[[defense]]
name = "none"
[[defense]]
name = "pretrained"
weights = "defended.safetensors"
rename = {"net\\\\.(.*)" = "\\\\1"}
[[defense]]
name = "pretrained"
as = "misfit"
weights = "defended.safetensors"
[[defense]]
name = "nad"
epochs = 1
batch = 5
rates = [[0, 0.01]]
[defense.teacher]
name = "pretrained"
weights = "defended.safetensors"
rename = {"net\\\\.(.*)" = "\\\\1"}
[[metric]]
name = "acc"
"""


def network(answer: int) -> torch.nn.Module:
    """Return a network that gives one label to every image."""
    torch.manual_seed(answer)
    net = SmallCNN(width=8).build(TASK).eval()
    head = [module for module in net.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        head.bias[answer] += 100
    return net


@pytest.mark.usefixtures("one_thread")
def test_it_is_judged_in_the_victims_place_and_teaches(bench: Bench, tmp_path: Path) -> None:
    labels = np.repeat([0, 1, 2], [30, 20, 10])
    images = pictures(60).images.numpy()
    np.savez(tmp_path / "test.npz", test_images=images, test_labels=labels)
    save_file(network(0).state_dict(), tmp_path / "victim.safetensors")
    defended = {f"net.{name}": value for name, value in network(2).state_dict().items()}
    save_file(defended, tmp_path / "defended.safetensors")
    (tmp_path / "grid.toml").write_text(GRID)
    result = bench("run", "grid.toml", "--store", tmp_path / "store", cwd=tmp_path)
    assert result.returncode == 1, "the one that does not fit fails"
    assert "say with `rename` what its tensors are called" in result.stderr
    table = bench(
        "report", "grid.toml", "--store", tmp_path / "store", "--format", "csv", cwd=tmp_path
    ).stdout
    rows = {}
    for row in csv.DictReader(io.StringIO(table)):
        if row["metric"] == "acc":
            rows[row["attack"], row["defense"], row["defense_seed"]] = row
    theirs = rows["theirs", "none", "0"]["value"]
    assert theirs != rows["pretrained-clean", "none", "0"]["value"]
    for seed in ("0", "1"):
        assert rows["pretrained-clean", "pretrained", seed]["value"] == theirs
        assert rows["pretrained-clean", "misfit", seed]["status"] == "failed"
        assert rows["pretrained-clean", "nad", seed]["status"] == "done"


def test_a_network_for_other_classes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "defended.safetensors"
    save_file(network(2).state_dict(), path)
    defense = PretrainedDefense(weights=path)
    assert defense.compatible(Context(TASK)) is None
    told = defense.compatible(Context(Task("npz", 7, 8, 8, 1, 0)))
    assert told is not None
    assert "no network for 7 classes, its linear layers give 3 numbers" in told
