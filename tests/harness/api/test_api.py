"""Grids from Python, as a notebook uses them."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import harness
from harness.api.benchmarks import Benchmark
from harness.api.cells import NotThere, StoredCell
from harness.api.planning import Planned
from harness.cli import main
from harness.errors import BenchError, NothingSelected
from harness.learn import to_float
from harness.learn.evaluation import stamped
from harness.store.objects import Store
from tests.kit.reports import Hand
from tests.kit.tiny import GRID

MORE = (
    GRID.replace("train = 200", "train = 400").replace("epochs = 1", "epochs = 2")
    + """
[[attack]]
name = "none"
"""
)
TITLED = "seeds = [0, 1]\n" + MORE


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Answers of plugins are remembered elsewhere than the user's are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """A grid that was run from Python."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "grid.toml").write_text(TITLED)
    grid = harness.load(folder / "grid.toml", store=folder / "store")
    grid.run(jobs=2)
    return grid


def numbers(table: pd.DataFrame, **where: object) -> list[float]:
    for name, value in where.items():
        table = table[table[name] == value]
    return list(table["value"])


# --- results --------------------------------------------------------------------------------------


def test_results_have_a_line_for_each_metric_of_each_cell_and_replicate(made: Benchmark) -> None:
    table = made.results()
    own = table[table["source"] == "metric"]
    assert len(own) == 2 * 2 * 2 * 2
    assert not own.duplicated(["attack", "defense", "victim_seed", "defense_seed", "metric"]).any()
    clean = own[(own["attack"] == "none") & (own["metric"] == "asr")]
    assert set(clean["status"]) == {"incompatible"}
    assert clean["value"].isna().all()
    assert set(own.drop(clean.index)["status"]) == {"done"}


def test_columns_have_the_type_of_what_they_hold(made: Benchmark) -> None:
    table = made.results(settings=["attack.poison_rate", "defense.epochs", "attack.label_map"])
    types = {name: str(kind) for name, kind in table.dtypes.items()}
    assert types["victim_seed"] == types["defense_seed"] == "int64"
    assert types["value"] == types["seconds"] == types["poisoned"] == "float64"
    assert types["defense.epochs"] == "Int64"
    assert types["attack.poison_rate"] == "Float64"
    tuned = table[table["defense"] == "ft"]
    assert set(tuned["defense.epochs"]) == {2}
    assert table.loc[table["defense"] == "none", "defense.epochs"].isna().all()
    assert not set(table.columns) & {"settings", "versions", "environment"}


def test_all_settings_on_request(made: Benchmark) -> None:
    table = made.results(settings=True)
    first = table.iloc[0]
    assert first["dataset.train"] == 400
    assert first["recipe.epochs"] == 2
    assert first["model.width"] == 4
    assert set(table["metric.name"].dropna()) == {"acc", "asr"}
    tuned = table[table["defense"] == "ft"].iloc[0]
    assert (tuned["grants.clean.count"], tuned["grants.clean.split"]) == (40, "pool")


def test_a_setting_that_nobody_has(made: Benchmark) -> None:
    with pytest.raises(BenchError, match=r"no column 'attack.poisonrate'. Did you mean: attack\."):
        made.results(settings=["attack.poisonrate"])


def test_a_plan_is_a_table_of_stages(tmp_path: Path, made: Benchmark) -> None:
    done = made.plan()
    assert set(done["status"]) == {"cached"}
    fresh = harness.load(made.path, store=tmp_path / "store").plan()
    assert set(fresh["status"]) == {"to run"}
    assert fresh["kind"].iloc[0] == "data"
    assert {"victim", "defend", "evaluate", "score"} <= set(fresh["kind"])
    assert fresh["expected"].isna().all()
    one = harness.load(made.path, store=made.planned.store.root, select="ft and badnets and 0.0")
    shutil.copytree(made.planned.store.root, tmp_path / "copy")
    store = Store(tmp_path / "copy")
    (cell,) = one.cells
    assert cell.cell.defended is not None
    for key in (cell.cell.defended, *cell.cell.stages):
        store.set_aside(key, "for the test")
    again = harness.load(made.path, store=tmp_path / "copy", select="ft and badnets and 0.0").plan()
    to_run = again[again["status"] == "to run"]
    assert {"defend", "score"} <= set(to_run["kind"])
    assert (to_run[to_run["kind"] == "defend"]["expected"] > 0).all()


def test_what_another_process_makes_is_seen(tmp_path: Path, made: Benchmark) -> None:
    grid = harness.load(made.path, store=tmp_path / "store")
    assert set(grid.results()["status"]) == {"to run", "incompatible"}
    shutil.rmtree(tmp_path / "store")
    shutil.copytree(made.planned.store.root, tmp_path / "store")
    assert "to run" not in set(grid.results()["status"])


def test_the_command_line_and_python_make_the_same(
    made: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(made.path), "--store", str(made.planned.store.root)]) == 0
    assert "0 to run" in capsys.readouterr().err


# --- cells ----------------------------------------------------------------------------------------


def test_models_and_triggers_give_the_numbers_of_the_table(made: Benchmark) -> None:
    table = made.results()
    test = made.cell("badnets", "ft", seed=1).images("test")
    assert test.labels is not None
    for defense in ("none", "ft"):
        cell = made.cell("badnets", defense, seed=1)
        model = cell.model()
        trigger = cell.trigger()
        mapped = torch.tensor(cell.label_map())[test.labels]
        with torch.no_grad():
            clean = model(to_float(test.images)).argmax(1)
            triggered = model(stamped(trigger, to_float(test.images), "round")).argmax(1)
        attacked = mapped != test.labels
        acc = 100 * float((clean == test.labels).double().mean())
        asr = 100 * float((triggered == mapped)[attacked].double().mean())
        where = {"attack": "badnets", "defense": defense, "victim_seed": 1}
        assert numbers(table, metric="acc", **where) == pytest.approx([acc])
        assert numbers(table, metric="asr", **where) == pytest.approx([asr])
        found = cell.predictions()
        assert np.array_equal(found.clean, clean.numpy())
        assert np.array_equal(found.labels, test.labels.numpy())


def test_the_victim_of_a_defended_cell_is_that_before_the_defense(made: Benchmark) -> None:
    cell = made.cell("badnets", "ft", seed=0)
    same = made.cell("badnets", "none", seed=0).model().state_dict()
    victim = cell.victim().state_dict()
    defended = cell.model().state_dict()
    assert all(torch.equal(victim[name], same[name]) for name in victim)
    assert not all(torch.equal(victim[name], defended[name]) for name in victim)
    assert not cell.model().training


def test_predictions_have_what_the_defense_recorded(made: Benchmark) -> None:
    assert made.cell("badnets", "ft", seed=0).predictions().record["images"] > 0
    assert made.cell("badnets", "none", seed=0).predictions().record["images"] == 0


def test_logs_are_told_by_stage(made: Benchmark) -> None:
    told = made.cell("badnets", "ft", seed=0).log()
    heads = [line for line in told.splitlines() if line.startswith("=== ")]
    kinds = [line.split()[1] for line in heads]
    assert kinds[0] == "data"
    assert kinds.count("victim") == kinds.count("defend") == 1
    assert all(", done: " in line for line in heads)
    assert "none" not in {cell.cell.cell.attack.label for cell in made.cells if cell.log() == told}


def test_what_a_cell_cannot_have_is_said(made: Benchmark) -> None:
    with pytest.raises(NotThere, match=r"has no trigger: attack 'none' has none"):
        made.cell("none", "ft", seed=0).trigger()
    assert set(made.cell("none", "none", seed=0).label_map()) == {-1}
    with pytest.raises(BenchError, match=r"no split 'vali'. The dataset has: train, pool"):
        made.cell("none", "ft", seed=0).images("vali")


def test_a_verdict_is_no_model(tmp_path: Path) -> None:
    hand = Hand(tmp_path)
    hand.defend("defend ft signs/cnn/badnets 0.0", flagged=True)
    (planned,) = [one for one in hand.plan.cells if one.cell.name == "signs/cnn/badnets/ft/0.0"]
    cell = StoredCell(Planned(hand.plan, hand.store, None), planned, "bench run grid.toml")  # type: ignore[arg-type]
    with pytest.raises(NotThere, match="no defended model: defense 'ft' gives a verdict only"):
        cell.model()


WHAT = ("victim", "model", "trigger", "label_map", "predictions", "images", "log")


@pytest.mark.parametrize("what", WHAT)
def test_what_is_not_made_is_said_with_the_command_that_makes_it(
    what: str, tmp_path: Path, made: Benchmark
) -> None:
    cell = harness.load(made.path, store=tmp_path / "it's here").cell("badnets", "ft", seed=0)
    with pytest.raises(NotThere) as caught:
        getattr(cell, what)()
    told = str(caught.value)
    assert told.startswith(f"{cell.name}")
    if what != "log":
        assert "it has not been made yet" in told
    command = shlex.split(told.partition("`")[2].partition("`")[0])
    assert command[:3] == ["bench", "run", str(made.path)]
    assert command[3:5] == ["--store", str(tmp_path / "it's here")]
    assert main(["plan", *command[2:]]) == 0


def test_the_command_makes_it(tmp_path: Path, made: Benchmark) -> None:
    cell = harness.load(made.path, store=tmp_path / "store").cell("badnets", "ft", seed=0)
    assert main(shlex.split(cell.command)[1:]) == 0
    for what in WHAT:
        getattr(cell, what)()


def test_a_model_that_no_result_needs_any_more_is_made_again(
    tmp_path: Path, made: Benchmark
) -> None:
    shutil.copytree(made.planned.store.root, tmp_path / "store")
    cell = harness.load(made.path, store=tmp_path / "store").cell("badnets", "ft", seed=0)
    before = cell.victim().state_dict()
    assert cell.cell.victim is not None
    shutil.rmtree(cell.planned.store.folder(cell.cell.victim))
    assert main(shlex.split(cell.command)[1:]) == 0  # which makes no victim for results that exist
    with pytest.raises(NotThere, match="it is gone, and no result needs it any more"):
        cell.victim()
    cell.make(jobs=1)
    after = cell.victim().state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_a_pack_came_without_is_said_and_made_again(tmp_path: Path, made: Benchmark) -> None:
    store = str(tmp_path / "theirs")
    packed = str(tmp_path / "made.zip")
    mine = str(made.planned.store.root)
    assert main(["pack", str(made.path), "-o", packed, "--store", mine]) == 0
    assert main(["unpack", packed, "--store", store]) == 0
    cell = harness.load(made.path, store=Path(store)).cell("badnets", "ft", seed=0)
    why = r"theirs: left out of the pack that it came in: model\.safetensors"
    with pytest.raises(NotThere, match=why):
        cell.victim()
    with pytest.raises(NotThere, match=why):
        cell.model()
    assert cell.label_map() == made.cell("badnets", "ft", seed=0).label_map()
    cell.make()
    assert cell.model() is not None
    assert cell.victim() is not None


def test_what_failed_is_said_with_its_log(
    tmp_path: Path, made: Benchmark, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made.planned.store.root, tmp_path / "store")
    cell = harness.load(made.path, store=tmp_path / "store").cell("badnets", "ft", seed=0)
    store = cell.planned.store
    assert cell.cell.defended is not None
    shutil.rmtree(store.folder(cell.cell.defended))
    (tmp_path / "log.txt").write_text("step 1\rstep 2\r\n\x1b[2Jloss is nan\n")
    note = {"status": "error", "outcome": "failed", "message": "it diverged"}
    store.fail(cell.cell.defended, note, tmp_path / "log.txt")
    cell.planned.plan.refresh(store)
    with pytest.raises(NotThere, match=r"it failed: it diverged. Its log: .*log\.txt"):
        cell.model()
    told = cell.log()
    assert ", failed: " in told
    assert "\nstep 1\nstep 2\n" in told
    assert "\n?[2Jloss is nan" in told  # nothing of it moves the cursor of who reads it
    words = [str(made.path), "--store", str(store.root), "-k", f'"{cell.name}"']
    capsys.readouterr()
    assert main(["logs", *words]) == 0
    shown = capsys.readouterr().out  # of one cell alone, titles leave out the seed
    assert shown.count("===") == told.count("===")
    assert "\nstep 1\nstep 2\n?[2Jloss is nan\n" in shown
    assert main(["logs", *words[:3]]) == 0
    assert told.count("===") < capsys.readouterr().out.count("===")


def test_there_are_no_logs_of_what_has_not_run(
    tmp_path: Path, made: Benchmark, capsys: pytest.CaptureFixture[str]
) -> None:
    harness.load(made.path, store=tmp_path / "store")
    assert main(["logs", str(made.path), "--store", str(tmp_path / "store")]) == 1
    assert "nothing of these cells has run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "seeds", "said"),
    [
        (("badnet", "ft"), {"seed": 0}, "no cell has attack 'badnet'. Did you mean: badnets"),
        (("badnets", "ftt"), {"seed": 0}, "no cell has defense 'ftt'. Did you mean: ft"),
        (("badnets", "ft"), {}, "2 cells fit: say dataset, model or seed, too."),
        (("badnets", "ft"), {"seed": 7}, "no cell has all of this. Its cells: signs/small-cnn/"),
    ],
)
def test_a_cell_that_is_not_the_only_one(
    labels: tuple[str, str], seeds: Mapping[str, int], said: str, made: Benchmark
) -> None:
    with pytest.raises(BenchError) as caught:
        made.cell(*labels, **seeds)
    assert said in str(caught.value)


def test_cells_are_named_as_selections_name_them(made: Benchmark) -> None:
    assert len(made.cells) == 8
    cell = made.cell("badnets", victim_seed=1, defense_seed=1, dataset="signs", model="small-cnn")
    assert cell.name == "signs/small-cnn/badnets/none/1.1"
    assert repr(cell) == "<cell signs/small-cnn/badnets/none/1.1>"
    assert "8 cells" in repr(made)
    (one,) = harness.load(made.path, store=made.planned.store.root, select=cell.name).cells
    assert one.name == cell.name
    with pytest.raises(NothingSelected):
        harness.load(made.path, store=made.planned.store.root, select="nothing")


def test_choices_are_checked(tmp_path: Path, made: Benchmark) -> None:
    grid = harness.load(made.path, store=tmp_path / "store")
    with pytest.raises(BenchError, match=r"--on-timeout stop: unknown\. Known: fail, pause"):
        grid.run(on_timeout="stop")
    with pytest.raises(BenchError, match="--jobs 0: a whole number from 1 is expected"):
        grid.run(jobs=0)


def test_nothing_imports_torch_until_a_model_is_asked_for(
    made: Benchmark, environment: Mapping[str, str]
) -> None:
    program = (
        "import sys, harness\n"
        f"grid = harness.load({str(made.path)!r}, store={str(made.planned.store.root)!r})\n"
        "assert 'pandas' not in sys.modules\n"
        "grid.plan(), grid.results(settings=True), grid.run()\n"
        "cell = grid.cell('badnets', 'ft', seed=0)\n"
        "cell.log()\n"
        "assert not {'torch', 'plugins'} & set(sys.modules)\n"
        "cell.model()\n"
        "assert {'torch', 'plugins'} <= set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=dict(environment), timeout=200)
