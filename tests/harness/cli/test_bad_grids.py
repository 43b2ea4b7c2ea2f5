"""Every kind of mistake in a grid, through `bench plan` and `bench run`: exit code 2 before any
work, and a message that names file, line and key, and says what would be right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from harness.cli import main
from tests.kit.one_child import answering

GRID = """\
title = "t"

[[dataset]]
name = "signs"
train = 300
test = 100
pool = 60

[[model]]
name = "small-cnn"

[[attack]]
name = "badnets"
poison_rate = 0.1

[defender]
clean = 50

[[defense]]
name = "none"
[[defense]]
name = "ft"
epochs = 2

[training]
recipe = "signs"
crop = 1

[[metric]]
name = "acc"
[[metric]]
name = "asr"
"""

SIGNS = 'name = "signs"\ntrain = 300\ntest = 100\n'
FT = 'name = "ft"\nepochs = 2\n'
RATE = "poison_rate = 0.1\n"
CROP = "crop = 1\n"
END = ""
MIDDLE = GRID[GRID.index("pool") : GRID.index("\n\n[[defense]]")]
FEW_SIGNS = '{name = "signs", train = 30, test = 5, pool = 10}'


class Case(NamedTuple):
    """`new` replaces `old` (or is put at the end); in it, `#!` marks the line that the message must
    name.
    """

    old: str
    new: str
    key: str
    what: str
    hint: str = ""


CASES = {
    # structure
    "top-level key": Case(
        'title = "t"\n', 'titel = "t" #!\n', "titel", 'unknown key "titel"', "Did you mean: title?"
    ),
    "value of a wrong type": Case(
        END, "seeds = 3 #!\n", "seeds", "3 (an integer) where a list", "or [3] for"
    ),
    "empty axis": Case(
        '[[model]]\nname = "small-cnn"\n', "", "model", "empty axis", "`bench list models`"
    ),
    "empty sweep": Case(
        RATE,
        "sweep.poison_rate = [] #!\n",
        "attack[0].sweep.poison_rate",
        "empty",
        "poison_rate = 1",
    ),
    "one label twice": Case(
        END,
        '[[defense]] #!\nname = "ft"\nepochs = 3\n',
        "defense[2]",
        'a second [[defense]] is labelled "ft"; the first stands at',
        'as = "ft-2"',
    ),
    "on nothing": Case(
        FT,
        FT + 'on = "nad" #!\n',
        "defense[1].on",
        'no other [[defense]] is labelled "nad"',
        "Known: ",
    ),
    "averaging over what is not named": Case(
        END,
        'seeds = [0, 1]\n[[table]] #!\nrows = ["attack"]\ncolumns = ["defense", "metric"]\n',
        "table[0]",
        "averages over seed, which it does not name",
        'add "seed" to rows, columns or over',
    ),
    "bound above 1": Case(
        RATE,
        "established.asr = 95 #!\n",
        "attack[0].established.asr",
        "95 is out of range",
        "95 % is 0.95",
    ),
    # names
    "dataset": Case(
        '"signs"\ntrain', '"sings" #!\ntrain', "dataset[0].name", "'sings'", "Did you mean: signs?"
    ),
    "model": Case(
        '"small-cnn"', '"smallcnn" #!', "model[0].name", "'smallcnn'", "Did you mean: small-cnn"
    ),
    "attack": Case(
        '"badnets"', '"badnet" #!', "attack[0].name", "'badnet'", "Did you mean: badnets"
    ),
    "defense": Case('"ft"\n', '"fft" #!\n', "defense[1].name", "'fft'", "Did you mean: ft?"),
    "metric": Case('"acc"', '"ac" #!', "metric[0].name", "'ac'", "Did you mean: acc"),
    "argument of what takes none": Case(
        '"small-cnn"',
        '"small-cnn:x" #!',
        "model[0].name",
        "'small-cnn:x'",
        "takes no argument after a colon",
    ),
    "preset": Case(
        RATE, 'preset = "bcuu" #!\n', "attack[0].preset", "no preset 'bcuu'", "Did you mean: bcu?"
    ),
    # parameters
    "parameter": Case(
        RATE,
        "poisson_rate = 0.1 #!\n",
        "attack[0].poisson_rate",
        "no parameter 'poisson_rate'",
        "poison_rate?",
    ),
    "type": Case(
        RATE,
        'poison_rate = "much" #!\n',
        "attack[0].poison_rate",
        '"much" is not a number',
        "default: 0.1",
    ),
    "fraction for a count": Case(
        "epochs = 2\n",
        "epochs = 2.5 #!\n",
        "defense[1].epochs",
        "2.5 is not a whole number",
        "default: 100",
    ),
    "rate": Case(
        RATE,
        "poison_rate = 1.5 #!\n",
        "attack[0].poison_rate",
        "1.5 is not a number",
        "a number between 0 and 1",
    ),
    "one value of a sweep": Case(
        RATE,
        "sweep.poison_rate = [0.1,\n 1.5] #!\n",
        "attack[0].sweep.poison_rate[1]",
        "1.5 is not a number",
        "a number between 0 and 1",
    ),
    "what a block sets": Case(
        END,
        "[[block]]\nset.attack.poison_rate = 1.5 #!\n",
        "block[0].set.attack.poison_rate",
        "1.5 is not a number",
        "a number between 0 and 1",
    ),
    "negative target": Case(
        RATE, "target = -1 #!\n", "attack[0].target", "-1 is not a whole number", "at least 0"
    ),
    "several targets": Case(
        RATE,
        "target = [0, 1] #!\n",
        "attack[0].target",
        "several targets are a label_map with the label of every class",
        "expected: a whole number",
    ),
    "label map without such a name": Case(
        RATE,
        'label_map = "permuted" #!\n',
        "attack[0].label_map",
        '"permuted" is not one of "all-to-one", "all-to-all", "source-specific" or a list',
        "a list of whole numbers at least -1",
    ),
    "label of one class": Case(
        RATE,
        "label_map = [1,\n -2, #!\n 0]\n",
        "attack[0].label_map[1]",
        "-2: input should be greater than or equal to -1",
        "a list of whole numbers at least -1",
    ),
    "label maps that are not swept": Case(
        RATE,
        'label_map = ["all-to-one", "all-to-all"] #!\n',
        "attack[0].label_map",
        '["all-to-one", "all-to-all"] is not one of',
        "write sweep.label_map = [...]",
    ),
    "target beside a label map that is a list": Case(
        RATE,
        "label_map = [1, 0]\ntarget = 1 #!\n",
        "attack[0].target",
        "it does nothing here: label_map lists the label of every class",
        "leave it out",
    ),
    "sources beside a label map that is a list": Case(
        '[[attack]]\nname = "badnets"\n',
        '[[attack]] #!\nname = "badnets"\nlabel_map = [1, 0]\nsources = [1]\n',
        "attack[0]",
        'sources go together with label_map = "source-specific"',
        "-1 for each class that is not attacked",
    ),
    "missing file": Case(
        SIGNS,
        'name = "npz"\npath = "nowhere.npz" #!\n',
        "dataset[0].path",
        "there is no file",
        "a relative path is looked up beside the grid",
    ),
    "missing parameter": Case(
        "[[dataset]]\n" + SIGNS,
        '[[dataset]] #!\nname = "npz"\n',
        "dataset[0].path",
        "is required",
        "a path to a file",
    ),
    # components as parameters
    "inner parameter": Case(
        FT,
        'name = "nad"\n[defense.teacher]\nname = "ft"\nlr = -1 #!\n',
        "defense[1].teacher.lr",
        "-1 is not a number above 0",
        "default: 0.01",
    ),
    "inner parameter that there is not": Case(
        FT,
        'name = "nad"\n[defense.teacher]\nname = "ft"\nepoch = 1 #!\n',
        "defense[1].teacher.epoch",
        "FT has no parameter 'epoch'",
        "Did you mean: epochs?",
    ),
    "inner name": Case(
        FT,
        'name = "nad"\nteacher = "fft" #!\n',
        "defense[1].teacher.name",
        "unknown defense 'fft'",
        "Did you mean: ft?",
    ),
    "inner preset": Case(
        FT,
        'name = "nad"\nteacher = {name = "ft", preset = "x"} #!\n',
        "defense[1].teacher.preset",
        "FT has no preset 'x'",
        "Known: ",
    ),
    "no component": Case(
        FT,
        'name = "nad"\nteacher = 3 #!\n',
        "defense[1].teacher",
        "a defense is expected here",
        '{name = "...", ',
    ),
    # one thing under two names
    "equal settings": Case(
        END,
        f'[[defense]] #!\nas = "tuned"\n{FT}',
        "defense[2]",
        "defense 'tuned' has the same settings as 'ft' (line 21)",
        "remove one, or change a parameter",
    ),
    "a default said aloud": Case(
        END,
        '[[attack]] #!\nname = "badnets"\nas = "again"\ntarget = 0\n',
        "attack[1]",
        "attack 'again' has the same settings as 'badnets' (line 12)",
        "remove one",
    ),
    # training
    "recipe": Case(
        '"signs"\ncrop',
        '"sign" #!\ncrop',
        "training.recipe",
        "unknown recipe 'sign'",
        "mean: signs?",
    ),
    "recipe of an entry": Case(
        RATE,
        'training.recipe = "sign" #!\n',
        "attack[0].training.recipe",
        "unknown recipe 'sign'",
        "mean: signs?",
    ),
    "field": Case(
        CROP,
        "epoch = 1 #!\n",
        "training.epoch",
        "a recipe has no field 'epoch'",
        "Did you mean: epochs?",
    ),
    "field of an entry": Case(
        RATE,
        "training.epoch = 1 #!\n",
        "attack[0].training.epoch",
        "no field 'epoch'",
        "Did you mean: epochs?",
    ),
    "type of a field": Case(
        CROP,
        'epochs = "one" #!\n',
        "training.epochs",
        '"one" is not a whole number',
        "default: 100",
    ),
    "range of a field": Case(
        CROP, "lr = -1 #!\n", "training.lr", "-1 is not a number at least 0", "default: 0.1"
    ),
    "part of a field": Case(
        CROP,
        "betas = [0.9,\n 'x'] #!\n",
        "training.betas[1]",
        '"x"',
        "expected: a list of 2 numbers",
    ),
    "fields that do not go together": Case(
        CROP,
        "rates = [[0, 0.1]] #!\n",
        "training.rates",
        'rates goes with schedule = "table"',
        "`bench show recipe NAME`",
    ),
    # splits and grants
    "pool larger than the data": Case(
        "pool = 60\n",
        "pool = 300 #!\n",
        "dataset[0].pool",
        "hold back 300 of 300 training images",
        "smaller `pool`",
    ),
    "pool larger than the test data": Case(
        "pool = 60\n",
        'pool_from = "test"\npool = 100 #!\n',
        "dataset[0].pool",
        "the pool holds back 100 of 100 test images",
        "smaller `pool`",
    ),
    "more than there is": Case(
        "pool = 60\n",
        "take = 301 #!\n",
        "dataset[0].take",
        "take = 301, but there are 300 training images",
        "less",
    ),
    "grant larger than the pool": Case(
        "clean = 50\n",
        "clean = 61 #!\n",
        "defender.clean",
        "ft needs 61 clean images, but the pool of 'signs' holds 60",
        "set pool = 61 or more in its [[dataset]], or grant less",
    ),
    "grant of an entry": Case(
        FT,
        FT + "grant.clean = 61 #!\n",
        "defense[1].grant.clean",
        "but the pool of 'signs' holds 60",
        "pool = 61",
    ),
    "share larger than the pool": Case(
        "clean = 50\n",
        "clean = 0.5 #!\n",
        "defender.clean",
        "ft needs 150 clean images",
        "pool = 150",
    ),
    "share of nothing": Case(
        "clean = 50\n",
        "clean = 0.001 #!\n",
        "defender.clean",
        "0.001 of 300 images is none",
        "grant more",
    ),
    "no pool": Case(
        MIDDLE,
        MIDDLE.removeprefix("pool = 60\n") + " #!",
        "defender.clean",
        "ft needs 50 clean images, but the pool of 'signs' holds none",
        "set pool = 50 or more in its [[dataset]]",
    ),
    "grant of an unknown dataset": Case(
        "clean = 50\n",
        'clean = {dataset = "sings", count = 20} #!\n',
        "defender.clean.dataset.name",
        "unknown dataset 'sings'",
        "Did you mean: signs?",
    ),
    "grant of a dataset with a bad parameter": Case(
        FT,
        FT + 'grant.clean = {dataset = {name = "signs", trian = 3}, count = 20} #!\n',
        "defense[1].grant.clean.dataset.trian",
        "no parameter 'trian'",
        "Did you mean: train",
    ),
    "recipe that is a list": Case(
        'recipe = "signs"\n',
        'recipe = ["signs", "signs"] #!\n',
        "training.recipe",
        "a list",
        "name a recipe",
    ),
    "grant of a dataset that is none": Case(
        FT,
        FT + "grant.clean = {dataset = 3, count = 20} #!\n",
        "defense[1].grant.clean.dataset",
        "3 (an integer) where a string is needed",
        'write "gtsrb"',
    ),
    "grant of a dataset whose name is none": Case(
        FT,
        FT + "grant.clean = {dataset = {name = 3}, count = 20} #!\n",
        "defense[1].grant.clean.dataset.name",
        "3 (an integer) where a string is needed",
        'write "gtsrb"',
    ),
    "grant of no dataset": Case(
        FT,
        FT + "grant.clean = {count = 20} #!\n",
        "defense[1].grant.clean",
        "dataset is missing",
        'write {dataset = "gtsrb", count = 2500}',
    ),
    "grant of a dataset that is too small": Case(
        FT,
        FT + f"grant.clean = {{dataset = {FEW_SIGNS}, count = 11}} #!\n",
        "defense[1].grant.clean",
        "ft needs 11 clean images, but the pool of 'signs' holds 10",
        "set pool = 11",
    ),
}

Check = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, answering():
        patch.setenv("BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("BENCH_DATA", raising=False)
        yield


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """Both verbs refuse the grid in the same words, which are returned, and make no store."""

    def check(grid: Path = tmp_path / "grid.toml") -> str:
        told = set()
        for verb in ("plan", "run"):
            assert main([verb, str(grid), "--store", str(tmp_path / "store")]) == 2
            out, err = capsys.readouterr()
            assert out == ""
            assert "Traceback" not in err
            assert not (tmp_path / "store").exists()
            told.add(err)
        (message,) = told
        return message

    return check


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_mistake_is_told_before_any_work(case: Case, refused: Check, tmp_path: Path) -> None:
    assert case.old in GRID
    text = GRID.replace(case.old, case.new, 1) if case.old else _at_the_end(case.new)
    (tmp_path / "grid.toml").write_text(text)
    lines = [number for number, line in enumerate(text.splitlines(), start=1) if "#!" in line]
    if not lines:  # what is lacking has no line of its own
        lines = [1]
    first, *rest = refused().splitlines()
    assert first.startswith(f"bench: {tmp_path}/grid.toml:{lines[0]}: {case.key}: ")
    assert case.what in first
    assert case.hint in first + "\n".join(rest)


def _at_the_end(text: str) -> str:
    """Top-level keys must stand before the first table."""
    top, bracket, tables = text.partition("[[")
    return top + GRID + bracket + tables


def test_all_mistakes_are_told_at_once(refused: Check, tmp_path: Path) -> None:
    text = (
        GRID.replace("poison_rate = 0.1", "poison_rate = 2")
        .replace('"ft"', '"fft"')
        .replace("pool = 60", "pool = 400")
    )
    text += '[[attack]]\nname = "wanet"\ntraining.epoch = 2\n'
    (tmp_path / "grid.toml").write_text(text)
    told = refused()
    for key in (
        "attack[0].poison_rate",
        "defense[1].name",
        "dataset[0].pool",
        "attack[1].training.epoch",
    ):
        assert f": {key}: " in told


INDEPENDENT = {
    "seeds": ("", "seeds = 3\n", ": seeds: "),
    "unknown recipe": ('recipe = "signs"', 'recipe = "sings"', "unknown recipe 'sings'"),
    "field": ("crop = 1", "crop = -1", ": training.crop: "),
    "attack": ('"badnets"', '"badnet"', "unknown attack 'badnet'"),
    "parameter": (RATE, "poison_rate = 2\n", ": attack[0].poison_rate: "),
    "preset": ('"badnets"', '"badnets"\npreset = "x"', "has no preset 'x'"),
    "pool": ("pool = 60", "pol = 60", ": dataset[0].pol: "),
    "unknown key": ("clean = 50", "claen = 50", ": defender.claen: "),
    "defense": ('"ft"', '"ftt"', "unknown defense 'ftt'"),
    "chain": ("epochs = 2", 'on = "nobody"', 'is labelled "nobody"'),
    "metric": ('"asr"', '"arsr"', "unknown metric 'arsr'"),
}
"""Mistakes, each with what is said of it, that have nothing to do with one another."""


@pytest.mark.parametrize(("one", "other"), list(combinations(INDEPENDENT, 2)))
def test_two_mistakes_are_both_told(one: str, other: str, refused: Check, tmp_path: Path) -> None:
    if (one, other) in {("attack", "parameter"), ("attack", "preset")}:
        return  # of a component that there is not, no parameter can be wrong
    text = GRID
    told_of = []
    for mistake in (one, other):
        old, new, told = INDEPENDENT[mistake]
        text = text.replace(old, new, 1) if old else new + text
        told_of.append(told)
    (tmp_path / "grid.toml").write_text(text)
    message = refused()
    for told in told_of:
        assert told in message
    assert len([line for line in message.splitlines() if "grid.toml:" in line]) == 2, message


def test_a_list_where_a_number_belongs_may_be_a_sweep(refused: Check, tmp_path: Path) -> None:
    text = GRID.replace("poison_rate = 0.1", "poison_rate = [0.1, 0.2]")
    (tmp_path / "grid.toml").write_text(text)
    assert "write sweep.poison_rate = [...] to run each of these values" in refused()


@pytest.mark.parametrize("written", ["[1, -2, 0]", '["all-to-one", "all-to-all"]', "[[1, 0]]"])
def test_a_list_or_its_items_are_wrong_but_not_both(
    written: str, refused: Check, tmp_path: Path
) -> None:
    (tmp_path / "grid.toml").write_text(GRID.replace(RATE, f"label_map = {written}\n"))
    assert refused().count("grid.toml:") == 1


def test_what_does_nothing_for_each_value_of_a_sweep_is_told_once(
    refused: Check, tmp_path: Path
) -> None:
    more = '[[defense]]\nname = "nad"\nsweep.lr = [0.1, 0.2, 0.3]\n'
    (tmp_path / "grid.toml").write_text(GRID + more)
    told = refused()
    assert told.count("it does nothing here") == 1
    assert "defense[2].sweep.lr" in told


def test_every_grant_that_is_too_large_is_told(refused: Check, tmp_path: Path) -> None:
    more = (
        '[[defense]]\nname = "ft"\nas = "b"\ngrant.clean = 70\n'
        '[[defense]]\nname = "ft"\nas = "c"\ngrant.clean = 80\n'
    )
    (tmp_path / "grid.toml").write_text(GRID + more)
    told = refused()
    assert "b needs 70 clean images" in told
    assert "c needs 80 clean images" in told


def test_a_mistake_in_a_grid_that_is_extended_is_told_where_it_stands(
    refused: Check, tmp_path: Path
) -> None:
    (tmp_path / "base.toml").write_text(GRID.replace("poison_rate = 0.1", "poison_rate = 1.5"))
    (tmp_path / "grid.toml").write_text('extends = "base.toml"\n[[defense]]\nname = "ft"\nlr = 0\n')
    told = refused()
    assert f"{tmp_path}/base.toml:14: attack[0].poison_rate: " in told
    assert f"{tmp_path}/grid.toml:4: defense[0].lr: " in told


def test_what_is_not_selected_is_not_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "grid.toml").write_text(GRID + '[[attack]]\nname = "no-such-attack"\n')
    command = ["plan", str(tmp_path / "grid.toml"), "--store", str(tmp_path / "store"), "-k"]
    assert main([*command, "badnets"]) == 0
    assert main([*command, "no-such-attack"]) == 2
    assert f"{tmp_path}/grid.toml:34: attack[1].name: unknown attack" in capsys.readouterr().err


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "line", "what", "hint"),
    [
        (GRID.replace('"ft"', "ft").encode(), 22, "not TOML", "the line is: name = ft"),
        (GRID.encode() + b"# caf\xe9\n", 33, "not UTF-8 text: byte 0xe9", "save the file as UTF-8"),
    ],
)
def test_what_is_not_toml(
    refused: Check, tmp_path: Path, content: bytes, line: int, what: str, hint: str
) -> None:
    (tmp_path / "grid.toml").write_bytes(content)
    told = refused()
    assert told.startswith(f"bench: {tmp_path}/grid.toml:{line}: {what}")
    assert hint in told


def test_what_is_no_file(refused: Check, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(GRID)
    missing = refused(tmp_path / "gird.toml")
    assert f"{tmp_path}/gird.toml: there is no such file" in missing
    assert "Did you mean: grid.toml?" in missing
    assert "is a directory, not a grid file\n    Known: grid.toml" in refused(tmp_path)


def test_what_cannot_be_read(
    refused: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(
        Path, "read_bytes", refuse
    )  # tests may run as root, who may read everything
    told = refused()
    assert f"{tmp_path}/grid.toml: cannot be read: Permission denied" in told
    assert "name a grid file that you may read" in told


def test_a_file_with_other_arrays(refused: Check, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", pictures=np.zeros(3))
    (tmp_path / "grid.toml").write_text(GRID.replace(SIGNS, 'name = "npz"\npath = "data.npz"\n'))
    told = refused()
    assert told.startswith(
        f"bench: {tmp_path}/grid.toml:3: dataset[0]: {tmp_path}/data.npz: no array train_images"
    )
    assert "it holds pictures. Expected: train_images, train_labels" in told


# --- no mistake: a combination that makes no sense ------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("target = 10", "label 10 is no class of a task with 10 classes (0 to 9)"),
        ("size = 18", "size 18 and margin 0 do not fit into 16x16 pixels"),
    ],
)
def test_what_makes_no_sense_here_is_a_row_with_its_reason(
    setting: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parameters that are possible, but not on this dataset: on another one of the grid they may be
    right.
    """
    (tmp_path / "grid.toml").write_text(GRID.replace("poison_rate = 0.1", setting))
    command = [str(tmp_path / "grid.toml"), "--store", str(tmp_path / "store")]
    assert main(["plan", *command]) == 0
    planned = capsys.readouterr().out
    assert "2 cells: 2 incompatible" in planned
    assert f"incompatible (badnets: {reason}):\n  signs/small-cnn/badnets/none/0.0\n" in planned
    assert main(["run", *command]) == 0
    assert f"incompatible: badnets: {reason}" in capsys.readouterr().out
    assert not list((tmp_path / "store" / "objects").iterdir())
    assert main(["status", *command]) == 0
    assert capsys.readouterr().out.startswith("2 cells: 2 incompatible\n0 stages\n")
