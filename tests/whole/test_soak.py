"""The campaigns of `make soak`, a try or two of each: they must not have rotted when somebody lets
them run for an hour; and that they tell of what breaks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from benchmarks.soak import campaign
from benchmarks.soak.campaign import Bounds
from benchmarks.soak.ground import Ground, demand
from tests.kit.places import ROOT

pytestmark = pytest.mark.long

SEEDS = {"kills": 55, "damage": 15, "fuzz": 0, "hostile": 70}
"""Seeds whose first steps are short ones."""


@pytest.mark.parametrize(("name", "seed"), SEEDS.items())
def test_a_campaign_runs_and_finds_nothing(name: str, seed: int, tmp_path: Path) -> None:
    words = [name, "--tries", "2", "--seed", str(seed), "--folder", str(tmp_path / "work")]
    command = [sys.executable, "-m", "benchmarks.soak", *words, "--out", str(tmp_path / "out.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{name}: " in done.stdout
    numbers = json.loads((tmp_path / "out.json").read_text())[name]
    assert numbers["tries"] >= 2
    assert numbers["failures"] == []
    assert not (tmp_path / "work").exists()


def test_what_breaks_is_told_kept_and_can_be_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = []

    def attempt(draw: Random, ground: Ground, folder: Path, tries: Counter[str]) -> None:
        tries["blows"] += 2
        drawn.append(draw.random())
        (folder / "trace").touch()
        demand(len(drawn) != 2, "the second breaks")

    ground = Ground(tmp_path)
    tally = campaign.carry_out("blows", attempt, ground, 7, Bounds(seconds=60, tries=6))
    assert (tally.steps, tally.tries["blows"]) == (3, 6)
    (failure,) = tally.failures
    assert (failure.step, failure.message) == (1, "the second breaks")
    assert (failure.folder / "trace").exists()
    assert not (tmp_path / "blows-0").exists()
    said = capsys.readouterr().err
    assert "blows, step 1: the second breaks" in said
    assert "python -m benchmarks.soak blows --seed 7 --only 1" in said
    assert tally.to_json()["failures"] == [{"step": 1, "message": "the second breaks"}]
    assert "blows" in campaign.table([tally])
    again = Ground(tmp_path / "again")
    campaign.carry_out("blows", attempt, again, 7, Bounds(seconds=60, only=1))
    assert drawn[3] == drawn[1]
    assert len(set(drawn)) == 3


def test_an_unknown_campaign_and_a_folder_that_is_there(tmp_path: Path) -> None:
    for words, said in (
        (["floods"], "unknown campaign 'floods'"),
        (["--folder", str(tmp_path)], "is there already"),
    ):
        command = [sys.executable, "-m", "benchmarks.soak", *words]
        refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert refused.returncode != 0
        assert said in refused.stderr
