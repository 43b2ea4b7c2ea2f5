"""Distances from the grid to the table: the growth over the network that a defense started from,
and the mark of what rests on an encoder of our own.
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
name = "class-distance"
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
"""


def rows(text: str) -> dict[tuple[str, str, str], dict[str, str]]:
    found = {}
    for row in csv.DictReader(io.StringIO(text)):
        found[row["defense"], row["metric"], row["part"]] = row
    return found


def test_distances_are_reported_beside_their_growth(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(GRID)
    result = bench("run", tmp_path / "grid.toml", "--store", tmp_path / "store")
    assert result.returncode == 0, result.stderr
    assert "stand-in: rests on what was trained here" in result.stdout
    told = bench("report", tmp_path / "grid.toml", "--store", tmp_path / "store", "--format", "csv")
    assert told.returncode == 0, told.stderr
    found = rows(told.stdout)
    metric = next(name for _, name, _ in found if name.startswith("class-distance"))
    matrices = []
    for defense in ("none", "ft"):
        row = found[defense, metric, ""]
        (arrays,) = (tmp_path / "store").glob(f"objects/*/{row['stage']}/arrays.safetensors")
        matrix = load_file(arrays)["distances"]
        assert float(row["value"]) == pytest.approx(np.nanmean(matrix))
        assert found[defense, metric, "failed"]["value"] == str(float(9 - 3 - _count(matrix)))
        assert row["marks"] == "stand-in"
        assert found[defense, "acc", ""]["marks"] == ""
        assert float(found[defense, metric, "decoder_psnr"]["value"]) > 0
        matrices.append(matrix)
    before, after = matrices
    both = np.isfinite(before) & np.isfinite(after)
    assert both.any()
    growth = 100 * np.mean(after[both] / before[both] - 1)
    assert float(found["ft", metric, "increase"]["value"]) == pytest.approx(growth)
    assert ("none", metric, "increase") not in found

    shown = bench("preview", "grid.toml", "--images", "6", "--store", "store", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    with Image.open(tmp_path / "preview.png") as picture:
        (panel,) = json.loads(picture.text["doorbench"])
    assert panel["part"].startswith("deck-decoder")
    (section,) = panel["sections"]
    captions = [row["caption"].splitlines()[0] for row in section["rows"]]
    psnr = float(found["ft", metric, "decoder_psnr"]["value"])
    assert captions[:2] == ["clean", f"decoded: PSNR {psnr:.1f} dB, " + captions[1].split(", ")[1]]
    assert captions[2].startswith("difference x")
    assert [column.split()[0] for column in section["columns"]] == ["class"] * 6


def _count(matrix: np.ndarray) -> int:
    return int(np.isfinite(matrix).sum())
