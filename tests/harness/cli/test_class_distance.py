"""Distances from the grid to the table: the growth over the network that a defense started from,
what accuracy and robustness it cost, and the mark of what rests on an encoder of our own.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from tests.kit.command import Bench

GRID = """
[[dataset]]
name = "signs"
classes = 3
size = 16
train = 200
test = 60
pool = 40
validation = 40
[[model]]
name = "small-cnn"
width = 4
[[attack]]
name = "none"
[[defense]]
name = "none"
[[defense]]
name = "ft"
epochs = 1
[training]
recipe = "signs"
epochs = 2
[[metric]]
name = "acc"
[[metric]]
name = "acc-loss"
[[metric]]
name = "robustness"
steps = 2
images = 20
[[metric]]
name = "class-distance"
as = "deck"
images = 8
epochs = 12
searches = 1
level_rate = 8.0
[metric.decoder]
name = "deck-decoder"
count = 60
epochs = 1
encoder_epochs = 1
pictures = {name = "signs", classes = 3, size = 16, train = 100, test = 10}
[[metric]]
name = "class-distance"
as = "filter"
backdoor = "filter"
images = 8
epochs = 20
searches = 1
level_rate = 25.0
[metric.decoder]
name = "deck-decoder"
count = 60
epochs = 1
encoder_epochs = 1
pictures = {name = "signs", classes = 3, size = 16, train = 100, test = 10}
[[metric]]
name = "class-distance"
as = "moth"
backdoor = "moth"
images = 8
batch = 8
epochs = 25
searches = 1
"""


Rows = dict[tuple[str, str, str], dict[str, str]]
KINDS = ("deck", "filter", "moth")


def rows(text: str) -> Rows:
    found: Rows = {}
    for row in csv.DictReader(io.StringIO(text)):
        found[row["defense"], row["metric"], row["part"]] = row
    return found


def test_distances_are_reported_beside_their_growth(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(GRID)
    result = bench("run", tmp_path / "grid.toml", "--store", tmp_path / "store")
    assert result.returncode == 0, result.stderr
    assert "stand-in: rests on what was trained here" in result.stdout
    told = bench(
        "report", tmp_path / "grid.toml", "--store", tmp_path / "store", "--format", "csv", "--full"
    )
    assert told.returncode == 0, told.stderr
    found = rows(told.stdout)
    store = tmp_path / "store"
    for metric in KINDS:
        check_growth(store, found, metric)
    stands_in = {metric: found["ft", metric, "pairs"]["marks"] for metric in ("deck", "moth")}
    assert stands_in == {"deck": "stand-in", "moth": ""}
    assert ("ft", "moth", "decoder_psnr") not in found
    assert sum(float(found["ft", metric, "left_out"]["value"]) for metric in KINDS) > 0

    left = float(found["ft", "acc-loss", "acc"]["value"])
    assert left == float(found["ft", "acc", ""]["value"])
    lost = float(found["none", "acc", ""]["value"]) - left
    assert float(found["ft", "acc-loss", ""]["value"]) == pytest.approx(lost)
    assert found["none", "acc-loss", "acc"]["value"] == found["none", "acc", ""]["value"]
    assert ("none", "acc-loss", "") not in found
    robust = [float(found[defense, "robustness", ""]["value"]) for defense in ("none", "ft")]
    weaker = float(found["ft", "robustness", "loss"]["value"])
    assert weaker == pytest.approx(robust[0] - robust[1])

    shown = bench("preview", "grid.toml", "--images", "6", "--store", "store", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    with Image.open(tmp_path / "preview.png") as picture:
        (panel,) = json.loads(picture.text["doorbench"])
    assert panel["part"].startswith("deck-decoder")
    (section,) = panel["sections"]
    captions = [row["caption"].splitlines()[0] for row in section["rows"]]
    psnr = float(found["ft", "deck", "decoder_psnr"]["value"])
    assert captions[:2] == ["clean", f"decoded: PSNR {psnr:.1f} dB, " + captions[1].split(", ")[1]]
    assert captions[2].startswith("difference x")
    assert [column.split()[0] for column in section["columns"]] == ["class"] * 6


def check_growth(store: Path, found: Rows, metric: str) -> None:
    """Compare rows with the matrices that the stages of a metric left."""
    matrices = []
    for defense in ("none", "ft"):
        row = found[defense, metric, "pairs"]
        assert row["value"] == "6.0"
        (arrays,) = store.glob(f"objects/*/{row['stage']}/arrays.safetensors")
        matrix = load_file(arrays)["distances"]
        there = np.isfinite(matrix)
        assert found[defense, metric, "failed"]["value"] == str(float(6 - there.sum()))
        assert float(found[defense, metric, ""]["value"]) == pytest.approx(np.nanmean(matrix))
        matrices.append(matrix)
    before, after = matrices
    both = np.isfinite(before) & np.isfinite(after)
    assert both.any()
    growth = 100 * np.mean(after[both] / before[both] - 1)
    assert float(found["ft", metric, "increase"]["value"]) == pytest.approx(growth)
    assert found["ft", metric, "left_out"]["value"] == str(float(6 - both.sum()))
    assert ("none", metric, "increase") not in found
