"""Models that cheat when they are judged: they see images only, and what they answer must depend on
the image alone.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import landlockpy
import pytest
from safetensors.numpy import load_file

from tests.kit.command import Bench
from tests.probes.cheat import CHEATS, TESTED

HONEST = ("none", "writes")
"""Defenses that leave the victim as it is, and whose numbers are the victim's."""

GRID = f"""
[[dataset]]
name = "signs"
train = 1500
test = {TESTED}
pool = 100
validation = 50
[[model]]
name = "small-cnn"
width = 8
[[attack]]
name = "badnets"
[[attack]]
name = "wanet"
training.recipe = "signs"
training.epochs = 1
[training]
recipe = "signs"
epochs = 6
[[metric]]
name = "acc"
[[metric]]
name = "asr"
[[metric]]
name = "blind"
[[defense]]
name = "none"
"""


@dataclass(frozen=True)
class Judged:
    """A grid in which all cheats were judged."""

    rows: list[dict[str, str]]
    store: Path

    def of(self, defense: str, attack: str = "badnets") -> dict[str, dict[str, str]]:
        """Return the rows of a cell by metric and part."""
        found = {}
        for row in self.rows:
            if (row["defense"], row["attack"]) == (defense, attack):
                found[f"{row['metric']} {row['part']}".rstrip()] = row
        return found


@pytest.fixture(scope="module")
def judged(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    folder = tmp_path_factory.mktemp("cheats")
    text = GRID
    for how in CHEATS:
        text += f'[[defense]]\nname = "cheat"\nas = "{how}"\nhow = "{how}"\n'
    notes = folder / "answers.safetensors"
    text += f'[[defense]]\nname = "cheat"\nas = "notes"\nhow = "notes"\nnotes = "{notes}"\n'
    (folder / "there").touch()
    text += (
        f'[[defense]]\nname = "cheat"\nas = "times"\nhow = "times"\nnotes = "{folder / "there"}"\n'
    )
    (folder / "grid.toml").write_text(text)
    command = (folder / "grid.toml", "--store", folder / "store")
    bench("run", *command)
    report = bench("report", *command, "--format", "csv")
    assert report.returncode == 1, report.stderr
    return Judged(list(csv.DictReader(io.StringIO(report.stdout))), folder / "store")


@pytest.mark.parametrize("how", sorted(set(CHEATS) - {"reads", *HONEST}))
def test_answers_that_depend_on_other_images_fail_the_cell(judged: Judged, how: str) -> None:
    for name in ("acc", "asr"):
        row = judged.of(how)[name]
        assert_caught(row)


@pytest.mark.skipif(not landlockpy.supported(), reason="the kernel confines no process")
def test_no_file_tells_one_process_what_the_other_answered(judged: Judged) -> None:
    for name in ("acc", "asr"):
        assert_caught(judged.of("notes")[name])


def test_nor_do_the_times_of_one(judged: Judged) -> None:
    for name in ("acc", "asr"):
        row = judged.of("times")[name]
        assert row["status"] == "failed", row
        assert "there, outside its own folder, while a model was judged" in row["reason"]


def assert_caught(row: Mapping[str, str]) -> None:
    assert row["status"] == "failed", row
    assert "depends on the images before it or beside it, or on chance" in row["reason"]
    assert "of 256 test images that were asked again" in row["reason"]


def test_there_are_no_labels_to_read(judged: Judged) -> None:
    row = judged.of("reads")["acc"]
    assert row["status"] == "failed"
    assert "labels in []" in row["reason"]


@pytest.mark.parametrize("attack", ["badnets", "wanet"])
def test_an_honest_model_has_its_numbers(judged: Judged, attack: str) -> None:
    undefended = judged.of("none", attack)
    same = judged.of("writes", attack)
    for name in ("acc", "asr"):
        assert undefended[name]["status"] == "done"
        assert same[name]["value"] == undefended[name]["value"]


def test_the_victim_is_backdoored(judged: Judged) -> None:
    assert float(judged.of("none")["acc"]["value"]) > 50
    assert float(judged.of("none")["asr"]["value"]) > 80


def test_a_metric_may_look_at_images_alone(judged: Judged) -> None:
    rows = judged.of("none")
    found = {name: float(rows[f"blind {name}"]["value"]) for name in ("test", "validation")}
    assert found == {"test": TESTED, "validation": 50}
    assert float(rows["blind answers"]["value"]) == 5
    assert float(rows["blind knowing"]["value"]) == 0


def test_the_models_process_is_told_of_no_attack(judged: Judged) -> None:
    """Neither what it is told nor what it is given names the attack; one stream serves a victim."""
    streams = set()
    given = {"evaluate": {"model", "stream"}, "recheck": {"model", "sample"}}
    for path in (judged.store / "objects").glob("*/*/manifest.json"):
        manifest = json.loads(path.read_text())
        if manifest["spec"]["stage"] == "stamp":
            streams.add(path.parent.name)
            places = load_file(path.parent / "places.safetensors")
            assert set(places) >= {"labels", "mapped", "clean", "triggered", "sample"}
        if manifest["spec"]["stage"] in given:
            told = json.dumps(manifest["spec"])
            assert "badnets" not in told
            assert "wanet" not in told
            assert set(manifest["spec"]["inputs"]) == given[manifest["spec"]["stage"]]
    assert len(streams) == 2
