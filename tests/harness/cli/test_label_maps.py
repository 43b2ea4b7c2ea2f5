"""Label maps that are lists: several targets, and a permutation, from the grid to the numbers."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.kit.command import Bench, Ran

PERMUTED = [2, 3, 1, 0]
TWO_TARGETS = [1, 1, 0, -1]
GRID = f"""
[[dataset]]
name = "signs"
classes = 4
train = 1200
test = 200
[[dataset]]
name = "signs"
as = "five"
classes = 5
train = 1200
test = 200
[[model]]
name = "small-cnn"
width = 16
[[attack]]
name = "badnets"
pattern = "white"
size = 5
poison_rate = 0.3
sweep.label_map = [{PERMUTED}, {TWO_TARGETS}]
[[defense]]
name = "none"
[training]
recipe = "signs"
epochs = 12
crop = 0
[[metric]]
name = "asr"
[[metric]]
name = "ra"
"""


@pytest.fixture(scope="module")
def mapped(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("maps")
    (folder / "grid.toml").write_text(GRID)
    result = bench("run", folder / "grid.toml", "--store", folder / "store")
    assert result.returncode == 0, result.stderr
    return Ran(folder / "grid.toml", folder / "store", result)


def answers(store: Path, table: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the true labels of the test images and what the victim with this label table says of
    them under the trigger.
    """
    for file in store.glob("objects/*/*/answers.safetensors"):
        manifest = json.loads((file.parent / "manifest.json").read_text())
        stream = manifest["parents"]["stream"]["key"]
        (places,) = store.glob(f"objects/*/{stream}/places.safetensors")
        truth = load_file(places)
        labels = truth["labels"]
        if np.array_equal(truth["mapped"], np.array(table)[labels]):
            return labels, load_file(file)["logits"].argmax(1)[truth["triggered"]]
    raise AssertionError(f"no victim has the label table {table}")


def success(store: Path, trained: list[int], asked: list[int]) -> float:
    """Return the ASR of the victim that was trained for one table under another, worked out one by
    one.
    """
    labels, triggered = answers(store, trained)
    hits = []
    for label, answer in zip(labels.tolist(), triggered.tolist(), strict=True):
        wanted = asked[label]
        if wanted not in (-1, label):
            hits.append(answer == wanted)
    return 100 * sum(hits) / len(hits)


@pytest.mark.parametrize(
    ("table", "wrong"),
    [(PERMUTED, [1, 0, 3, 2]), (PERMUTED, [3, 2, 0, 1]), (TWO_TARGETS, [3, 2, 1, 0])],
)
def test_a_victim_follows_its_map_and_no_other(
    mapped: Ran, bench: Bench, table: list[int], wrong: list[int]
) -> None:
    own = success(mapped.store, table, table)
    assert own > 80
    assert success(mapped.store, table, wrong) < 10
    report = bench("report", mapped.grid, "--store", mapped.store, "--format", "csv")
    values = {}
    for row in csv.DictReader(io.StringIO(report.stdout)):
        if row["dataset"] == "signs" and row["attack"] == f"badnets[label_map={table}]":
            values[row["metric"]] = float(row["value"])
    assert values["asr"] == pytest.approx(own)
    assert values["ra"] < 20


def test_the_truth_has_the_list(mapped: Ran) -> None:
    tables = [
        json.loads(truth.read_text())["label_table"]
        for truth in mapped.store.glob("objects/*/*/truth.json")
    ]
    assert sorted(tables) == 2 * [TWO_TARGETS] + 2 * [PERMUTED]  # poisoned set and victim


def test_a_list_for_other_classes_is_incompatible(mapped: Ran, bench: Bench) -> None:
    plan = bench("plan", mapped.grid, "--store", mapped.store)
    assert "2 complete, 2 incompatible" in plan.stdout
    assert "label_map lists 4 labels for a task with 5 classes: one for each" in plan.stdout


def test_a_list_can_be_chosen(mapped: Ran, bench: Bench) -> None:
    word = f'attack.label_map="{PERMUTED}" and not five'
    plan = bench("plan", mapped.grid, "--store", mapped.store, "-k", word)
    assert "1 cell: 1 complete" in plan.stdout
