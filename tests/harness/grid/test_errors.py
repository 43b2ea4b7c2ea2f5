from __future__ import annotations

import errno
import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import GridError, Problem
from harness.grid import from_table, read
from harness.grid.nodes import identity, same

GRID = """\
title = "t"

[[dataset]]
name = "signs"
[[model]]
name = "small-cnn"
[[attack]]
name = "badnets"
[[defense]]
name = "ft"
[[metric]]
name = "acc"
"""
ATTACK, DEFENSE, END = 8, 10, 12


def problems(folder: Path, text: str | bytes, name: str = "grid.toml") -> tuple[Problem, ...]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(GridError) as caught:
        read(path)
    return caught.value.problems


def inserted(after: int, addition: str) -> str:
    lines = GRID.splitlines(keepends=True)
    return "".join(lines[:after]) + addition + "\n" + "".join(lines[after:])


TABLE = '[[table]]\nrows = ["attack"]\ncolumns = ["defense", "metric"]\n'

CASES = [
    # (after which line, what is written there, line, key, what, hint)
    (1, "titel = 3", 2, "titel", 'unknown key "titel"',
     "Did you mean: title? Known: title, seeds, extends"),
    (1, "seeds = 3", 2, "seeds", "3 (an integer) where a list",
     "write [0, 1, 2] for so many replicates, or [3] for this one"),
    (1, "seeds = 5000", 2, "seeds", "5000 (an integer) where a list", "write [5000]"),
    (1, f"seeds = [0, 0x{'f' * 9000}]", 2, "seeds[1]", "an integer of 36000 bits is too large",
     "the largest is 9223372036854775807"),
    (ATTACK, f"x = 0b{'1' * 64}", 9, "attack[0].x", "an integer of 64 bits", "the largest is"),
    (1, f"seeds = {list(range(10_001))}", 2, "seeds",
     "it makes 10,001 replicates, and a grid may have 10,000", "several grids"),
    (1, f"seeds = {{victim = {list(range(101))}, defense = {list(range(100))}}}", 2, "seeds",
     "it makes 10,100 replicates", "several grids"),
    (ATTACK, f"sweep.x = {list(range(10_001))}", 9, "attack[0].sweep", "it makes 10,001 entries",
     "take values out"),
    (ATTACK, "".join(f"sweep.x{number} = [1, 2, 3]\n" for number in range(40)), 9,
     "attack[0].sweep", "it makes 12,157,665,459,056,928,801 entries", "several grids"),
    (DEFENSE, f'sweep.x = {list(range(200))}\n[[defense]]\nname = "ft"\nas = "b"\non = "ft"\n'
     f"sweep.y = {list(range(60))}", 15, "defense[1].on", "it makes 12,000 entries", "values out"),
    (ATTACK, f"sweep.x = {list(range(400))}\n[[block]]\nsweep.attack.y = {list(range(30))}", 11,
     "block[0].sweep.attack", "it makes 12,000 entries", "several grids"),
    (DEFENSE, f'sweep.x = {list(range(60))}\n[[defense]]\nname = "ft"\nas = "b"\non = "ft"\n'
     f"[[block]]\nsweep.defense.y = {list(range(20))}", 17, "block[0].sweep.defense",
     "entries and more, and a grid may have 10,000", "values out"),
    (ATTACK, f"sweep.x = {list(range(2000))}\nseeds = {list(range(60))}", 7, "attack",
     "more than 100,000 cells here: 2,000 attack x 60 seeds", "[[block]]"),
    (1, "seeds = []", 2, "seeds", "the list is empty", "seeds = [0, 1, 2]"),
    (1, "seeds = [0, -1]", 2, "seeds[1]", "-1 is out of range", "0 or more"),
    (1, "seeds = [0,\n true]", 3, "seeds[1]", "true (a boolean) where a seed", "whole number"),
    (1, "seeds = [1, 1]", 2, "seeds[1]", "1 is in the list already as seeds[0]", "keep one"),
    (1, "seeds = {victims = [1]}", 2, "seeds.victims", 'unknown key "victims"',
     "Did you mean: victim?"),
    (1, "seeds = {}", 2, "seeds", "names no seeds", "seeds = [0, 1, 2]"),
    (1, "extends = 3", 2, "extends", "3 (an integer) where a string", "extends = "),
    (1, "training = 3", 2, "training", "3 (an integer) where a table", "[training]"),
    (1, "block = 3", 2, "block", "3 (an integer) where a list of tables", "[[block]]"),
    (1, "block = ['sig']", 2, "block[0]", '"sig" (a string) where a table',
     '[[block]] and below it name = "sig"'),
    (ATTACK, "name2 = nan", 9, "attack[0].name2", "nan is no value", "finite"),
    (ATTACK, "x = [1, {y = -inf}]", 9, "attack[0].x[1].y", "-inf is no value", "finite"),
    (ATTACK, "x = 1979-05-27", 9, "attack[0].x", "1979-05-27 (a date or time)",
     'string: "1979-05-27"'),
    (ATTACK, "as = ''", 9, "attack[0].as", '"" is blank', "as = "),
    (ATTACK, 'as = "a\\nb"', 9, "attack[0].as", "unprintable", "as = "),
    (ATTACK, "preset = 3", 9, "attack[0].preset", "3 (an integer) where a string", "preset = "),
    (ATTACK, "grant.clean = 3", 9, "attack[0].grant", "does not belong to [[attack]]",
     "[[defense]]"),
    (ATTACK, "on = 'ft'", 9, "attack[0].on", "does not belong to [[attack]]", "[[defense]]"),
    (END, "seeds = [1]", 13, "metric[0].seeds", "does not belong to [[metric]]",
     "above the first [[...]]"),
    (END, "training.epochs = 1", 13, "metric[0].training", "does not belong to [[metric]]",
     "[training]"),
    (ATTACK, "training = 3", 9, "attack[0].training", "3 (an integer) where a table",
     "training.recipe"),
    (ATTACK, "training.recipe = 3", 9, "attack[0].training.recipe", "3 (an integer) where a string",
     "recipe"),
    (ATTACK, "established.asr = 95", 9, "attack[0].established.asr", "95 is out of range",
     "95 % is 0.95"),
    (ATTACK, "established.asr = nan", 9, "attack[0].established.asr", "nan is out of range",
     "between 0 and 1"),
    (ATTACK, "established.asr = true", 9, "attack[0].established.asr", "where a fraction",
     "between 0 and 1"),
    (ATTACK, "established.ra = 1", 9, "attack[0].established.ra", 'unknown key "ra"',
     "Known: asr, acc"),
    (ATTACK, "sweep = [1]", 9, "attack[0].sweep", "[1] (a list) where a table",
     "sweep.delta = [20, 60]"),
    (ATTACK, "sweep.d = 3", 9, "attack[0].sweep.d", "3 (an integer) where a list", "write [3]"),
    (ATTACK, "sweep.d = {a = 1}", 9, "attack[0].sweep.d", "{a = 1} (a table) where a list",
     "sweep.d = [1, 2]"),
    (ATTACK, "sweep.d = []", 9, "attack[0].sweep.d", "the list is empty", "d = 1 to set it"),
    (ATTACK, "sweep.d = [1, 2,\n1.0]", 10, "attack[0].sweep.d[2]", "1.0 is in the list already",
     "keep one"),
    (ATTACK, "sweep.d = [1, '1']", 7, "attack[0]", 'give the label "badnets[d=1]"', "keep one"),
    (ATTACK, "sweep.d = [1, nan]", 9, "attack[0].sweep.d[1]", "nan is no value", "finite"),
    (ATTACK, "sweep.preset = ['a']", 9, "attack[0].sweep.preset", "no parameter",
     "with its own `as`"),
    (ATTACK, "d = 1\nsweep.d = [1]", 9, "attack[0].d", "grid.toml:10", "keep one of the two"),
    (ATTACK, "[[attack]]\nas = 3", 9, "attack[1]", "name is missing", "bench list attacks"),
    (ATTACK, "[[attack]]\nnme = 'x'", 9, "attack[1]", "name is missing", '"nme" should read name'),
    (ATTACK, "[[attack]]\nname = 3", 10, "attack[1].name", "3 (an integer) where a string",
     "name = "),
    (ATTACK, "[[attack]]\nname = 'badnets'", 9, "attack[1]", "the first stands at",
     'as = "badnets-2"'),
    (DEFENSE, "on = 'tf'", 11, "defense[0].on", 'no other [[defense]] is labelled "tf"', "Known"),
    (DEFENSE, "on = 3", 11, "defense[0].on", "3 (an integer) where a string", 'on = "ft"'),
    (DEFENSE, "on = 'ft'", 11, "defense[0].on", "in a circle: ft -> ft", "take its `on` out"),
    (DEFENSE, "grant = 3", 11, "defense[0].grant", "3 (an integer) where a table",
     "grant.clean = 2500"),
    (DEFENSE, "grant.clear = 3", 11, "defense[0].grant.clear", 'unknown key "clear"',
     "Did you mean: clean"),
    (DEFENSE, "grant.clean = 0", 11, "defense[0].grant.clean", "0 is out of range",
     "a count of images (2500)"),
    (DEFENSE, "grant.clean = 0.0", 11, "defense[0].grant.clean", "0.0 is out of range",
     "fraction of the training"),
    (DEFENSE, "grant.clean = 50.0", 11, "defense[0].grant.clean", "50.0 is out of range",
     "write 50 for a count"),
    (DEFENSE, "grant.clean = true", 11, "defense[0].grant.clean", "true (a boolean) where a count",
     "2500"),
    (DEFENSE, "grant.clean = inf", 11, "defense[0].grant.clean", "inf is out of range", "2500"),
    (DEFENSE, "grant.clean = {count = 3}", 11, "defense[0].grant.clean", "dataset is missing",
     "gtsrb"),
    (DEFENSE, "grant.clean = {dataset = 'x'}", 11, "defense[0].grant.clean", "count is missing",
     "gtsrb"),
    (DEFENSE, "grant.clean = {dataset = 3, count = 1}", 11, "defense[0].grant.clean.dataset",
     "3 (an int", "gtsrb"),
    (DEFENSE, "grant.clean = {dataset = {}, count = 1}", 11, "defense[0].grant.clean.dataset",
     "name is", "name ="),
    (END, "[defender]\nclean = -1", 14, "defender.clean", "-1 is out of range", "2500"),
    (END, "[training]\nrecipe = 1", 14, "training.recipe", "1 (an integer) where a string",
     "bench list recipes"),
    (END, "[training]\nlr = nan", 14, "training.lr", "nan is no value", "finite"),
    (END, "[[block]]\natack = ['x']", 14, "block[0].atack", 'unknown key "atack"',
     "Did you mean: attack"),
    (END, "[[block]]\nattack = ['bad']", 14, "block[0].attack[0]", 'labelled "bad"',
     "Did you mean: badnets?"),
    (END, "[[block]]\nattack = 'x'", 14, "block[0].attack", '"x" (a string) where a list',
     'write ["x"]'),
    (END, "[[block]]\nattack = []", 14, "block[0].attack", "the list is empty",
     "leave attack out for all"),
    (END, "[[block]]\nattack = [1]", 14, "block[0].attack[0]", "1 (an integer) where a string",
     "[[attack]]"),
    (END, "[[block]]\nmetric = ['acc']", 14, "block[0].metric", "a block has no metrics",
     "[[table]]"),
    (END, "[[block]]\nset.attac.x = 1", 14, "block[0].set.attac", 'unknown key "attac"',
     "Did you mean: attack"),
    (END, "[[block]]\nset.attack = 1", 14, "block[0].set.attack", "1 (an integer) where a table",
     "set.attack.epochs"),
    (END, "[[block]]\nset.attack.as = 'x'", 14, "block[0].set.attack.as", "as is no parameter",
     "its own `as`"),
    (END, "[[block]]\nset.attack.x = nan", 14, "block[0].set.attack.x", "nan is no value",
     "finite"),
    (END, "[[block]]\nsweep.attack.x = 1", 14, "block[0].sweep.attack.x", "where a list",
     "write [1]"),
    (END, "[[block]]\nset.attack.x = 1\nsweep.attack.x = [1]", 14, "block[0].set.attack.x",
     "toml:15", "one of"),
    (END, TABLE + "row = []", 16, "table[0].row", 'unknown key "row"', "Did you mean: rows?"),
    (END, "[[table]]\nrows = ['metric']", 13, "table[0]", "columns is missing",
     'columns = ["defense", "metric"]'),
    (END, TABLE + "average = 'yes'", 16, "table[0].average", '"yes" (a string) where true or false',
     "without quotes"),
    (END, TABLE + "title = 1", 16, "table[0].title", "1 (an integer) where a string", "title = "),
    (END, TABLE + "over = 'seed'", 16, "table[0].over", '"seed" (a string) where a list',
     'write ["seed"]'),
    (END, TABLE + "over = ['sed']", 16, "table[0].over[0]", 'unknown axis "sed"',
     "Did you mean: seed"),
    (END, TABLE + "over = ['attack.x']", 16, "table[0].over[0]", 'sets or sweeps "x"',
     "Known: dataset, model"),
    (END, TABLE + "over = ['attack']", 16, "table[0].over[0]",
     '"attack" is in table[0].rows[0] already', "keep one"),
    (END, TABLE + "over = ['metric']", 16, "table[0].over[0]", "no average", "rows or columns"),
    (END, TABLE + "over = ['seed', 'victim-seed']", 16, "table[0].over[1]", 'overlaps "seed"',
     "together"),
    (END, TABLE + "reference = 'no.csv'", 16, "table[0].reference", 'there is no file "no.csv"',
     "looked for"),
    (END, TABLE + "reference = '.'", 16, "table[0].reference", '"." is a directory', "looked for"),
    (END, TABLE + "metrics = ['asr']", 16, "table[0].metrics[0]", 'no [[metric]] is labelled "asr"',
     "Known: acc"),
    (END, "[[attack]]\nname = 'x'\n[[table]]\nrows = ['defense']\ncolumns = ['metric']", 15,
     "table[0]",
     "averages over attack, which it does not name",
     'to rows, columns or over; its values in this grid: badnets, x'),
    (DEFENSE, "sweep.lr = [1, 2]\n[[table]]\nrows = ['attack']\ncolumns = ['metric']", 12,
     "table[0]",
     "averages over defense.lr,", "its values in this grid: 1, 2"),
    (END, "[[metric]]\nname = 'asr'\n[[table]]\nrows = ['attack']\ncolumns = ['defense']", 15,
     "table[0]",
     "averages over metric,", 'add "metric" to rows or columns'),
    (1, "seeds = [0, 1]\n" + TABLE, 3, "table[0]", "averages over seed,",
     '"seed" to rows, columns or over'),
    (1, "seeds = {defense = [0, 1]}\n" + TABLE, 3, "table[0]", "averages over defense-seed,",
     "0, 1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("after", "written", "line", "key", "what", "hint"), CASES, ids=[case[1][:40] for case in CASES]
)
def test_each_error(
    tmp_path: Path, after: int, written: str, line: int, key: str, what: str, hint: str
) -> None:
    (problem,) = [
        found
        for found in problems(tmp_path, inserted(after, written))
        if found.key == key and what in found.description
    ]
    assert (problem.file, problem.line) == (tmp_path / "grid.toml", line)
    assert hint in problem.hint
    assert str(problem).startswith(f"{tmp_path}/grid.toml:{line}: {key}: ")


@pytest.mark.parametrize(
    "case", [case for case in CASES if case[3] != "attack[1]"], ids=lambda case: str(case[1])[:40]
)
def test_one_mistake_is_one_problem(
    tmp_path: Path, case: tuple[int, str, int, str, str, str]
) -> None:
    found = problems(tmp_path, inserted(case[0], case[1]))
    assert len(found) == 1, found


def test_all_problems_come_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        GRID
        + '[[defense]]\nname = "a"\non = "b"\n[[attack]]\nname = "badnets"\n'
        + '[[block]]\nmodel = ["x"]\n'
    )
    found = problems(tmp_path, "sees = 1\nseeds = [true]\n" + text + TABLE + "average = 1\n")
    assert [problem.line for problem in found] == [1, 2, 17, 18, 21, 25]


@pytest.mark.parametrize("kind", ["dataset", "model", "attack", "defense", "metric"])
def test_an_empty_axis(tmp_path: Path, kind: str) -> None:
    lines = GRID.splitlines()
    start = lines.index(f"[[{kind}]]")
    for text in (
        "\n".join(lines[:start] + lines[start + 2 :]),
        f"{kind} = []\n" + "\n".join(lines[:start] + lines[start + 2 :]),
    ):
        (problem,) = problems(tmp_path, text)
        assert (problem.line, problem.key) == (1, kind)
        assert f"the grid has no [[{kind}]]" in problem.description
        assert f"bench list {kind}s" in problem.hint


def test_an_empty_file_lacks_every_axis(tmp_path: Path) -> None:
    assert [problem.key for problem in problems(tmp_path, "")] == [
        "dataset",
        "model",
        "attack",
        "defense",
        "metric",
    ]


def test_a_table_where_a_list_of_tables_is_needed(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, GRID.replace("[[attack]]", "[attack]"))
    assert (problem.line, problem.key) == (7, "attack")
    assert "write [[attack]], with two brackets" in problem.hint


# --- chains and blocks ----------------------------------------------------------------------------


def test_a_circle_is_reported_once_and_spares_the_rest(tmp_path: Path) -> None:
    ring = "".join(
        f'[[defense]]\nname = "{one}"\non = "{two}"\n' for one, two in ("ab", "bc", "ca", "da")
    )
    (problem,) = problems(tmp_path, GRID + ring + '[[block]]\ndefense = ["a", "b", "c", "d"]\n')
    assert "a -> b -> c -> a" in problem.description
    assert problem.key == "defense[3].on"


def test_an_unknown_label_of_a_sweep_lists_the_known_ones(tmp_path: Path) -> None:
    text = (
        GRID.replace('"ft"', '"ft"\nsweep.lr = [1, 2]')
        + '[[defense]]\nname = "x"\non = "ft[lr=3]"\n'
    )
    (problem,) = problems(tmp_path, text)
    assert problem.hint.endswith("Known: ft, ft[lr=1], ft[lr=2].")


def test_two_blocks_may_not_mean_different_things_by_one_label(tmp_path: Path) -> None:
    blocks = "[[block]]\nset.attack.target = 1\n[[block]]\nset.attack.target = 2\n"
    (problem,) = problems(tmp_path, GRID + blocks)
    assert (problem.line, problem.key) == (16, "block[1].set.attack.target")
    difference = f'the attack "badnets"; its target differs ({tmp_path}/grid.toml:14)'
    assert difference in problem.description
    assert "sweep.attack.target" in problem.hint


@pytest.mark.parametrize("way", ["set.attack.d = 3", "sweep.attack.d = [3]"])
def test_a_block_does_not_touch_what_an_entry_sweeps(tmp_path: Path, way: str) -> None:
    text = inserted(ATTACK, "sweep.d = [1, 2]") + f"[[block]]\n{way}\n"
    (problem,) = problems(tmp_path, text)
    assert problem.line == 15
    assert 'd is swept by the attack "badnets" already' in problem.description


# --- files ----------------------------------------------------------------------------------------


def test_a_missing_file_names_near_ones(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").touch()
    with pytest.raises(
        GridError, match=r"gird.toml: there is no such file\n    Did you mean: grid.toml\?"
    ) as caught:
        read(tmp_path / "gird.toml")
    assert caught.value.problems[0].line is None
    with pytest.raises(GridError, match="no folder"):
        read(tmp_path / "none" / "grid.toml")


def test_a_directory_is_no_grid(tmp_path: Path) -> None:
    (tmp_path / "quick.toml").touch()
    with pytest.raises(GridError, match=r"is a directory, not a grid file\n    Known: quick.toml"):
        read(tmp_path)


def test_a_file_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").touch()
    with pytest.raises(GridError, match="there is no such file"):
        read(tmp_path / "grid.toml" / "grid.toml")
    with pytest.raises(GridError, match=r"cannot be read: .*null"):
        read(tmp_path / "a\0b")


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(GridError, match="cannot be read: Permission denied"):
        read(tmp_path / "grid.toml")


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (GRID.replace('name = "ft"', "name = ft"), 10, "not TOML: Invalid value at column 8"),
        (GRID + '[[block]\nx = "1"\n', 13, "not TOML: "),
        (GRID + 'x = "', 13, "not TOML: Unterminated string at the end of the file"),
        (GRID + "[dataset]\n", 13, "not TOML: "),
        (GRID.encode() + b"# caf\xe9\n", 13, "not UTF-8 text: byte 0xe9 cannot be decoded"),
        (GRID.encode("utf-16"), 1, "not UTF-8 text: byte 0xff"),
        ("x = " + "[" * 5000, 1, "nested too deeply"),
        (GRID + f"x = {'9' * 5000}\n", 13, "an integer of 5000 digits is too large"),
    ],
)
def test_what_is_not_toml_has_its_line(
    tmp_path: Path, text: str | bytes, line: int, what: str
) -> None:
    (problem,) = problems(tmp_path, text)
    assert problem.line == line
    assert what in problem.description
    assert problem.hint


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(GRID, encoding="utf-8-sig")
    assert read(tmp_path / "grid.toml").cells


# --- extends --------------------------------------------------------------------------------------


def test_a_missing_base(tmp_path: Path) -> None:
    (tmp_path / "table1.toml").touch()
    (problem,) = problems(
        tmp_path, 'title = "x"\nextends = "table.toml"\n[[block]]\nattack = ["sig"]\n'
    )
    assert (problem.line, problem.key) == (2, "extends")
    assert f'"table.toml": there is no such file ({tmp_path}/table.toml)' in problem.description
    assert "Did you mean: table1.toml?" in problem.hint


def test_a_base_that_is_a_directory(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, 'extends = "."\n')
    assert (problem.line, problem.key) == (1, "extends")
    assert "is a directory" in problem.description


def test_files_that_extend_each_other(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('extends = "./grid.toml"\n')
    (problem,) = problems(tmp_path, 'extends = "other.toml"\n')
    assert (problem.file.name, problem.line, problem.key) == ("other.toml", 1, "extends")
    assert "grid.toml -> other.toml -> grid.toml" in problem.description


def test_problems_point_into_the_file_of_the_key(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(inserted(ATTACK, "established.asr = 2\nsweep.d = []"))
    child = 'extends = "base.toml"\n[[attack]]\nname = "badnets"\nx = nan\n'
    child += '[[block]]\nattack = ["sig"]\n'
    found = [
        (problem.file.name, problem.line, problem.key) for problem in problems(tmp_path, child)
    ]
    assert sorted(found) == [
        ("base.toml", 9, "attack[0].established.asr"),
        ("base.toml", 10, "attack[0].sweep.d"),
        ("grid.toml", 4, "attack[0].x"),
        ("grid.toml", 6, "block[0].attack[0]"),
    ]


def test_a_broken_base_is_reported_in_its_own_lines(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("seeds = [\n\n= 3")
    found = problems(tmp_path, 'extends = "base.toml"\ntitle = 3\n')
    assert [(problem.file.name, problem.line) for problem in found] == [
        ("base.toml", 3),
        ("grid.toml", 2),
    ]


@pytest.mark.parametrize("written", ["9" * 19, "-" + "9" * 30, "0x" + "f" * 5000])
def test_an_integer_beyond_64_bits_in_a_table_too(written: str) -> None:
    table = tomllib.loads(GRID)
    table["attack"][0]["x"] = int(written, 0)
    with pytest.raises(GridError, match=r"attack\[0\].x: an integer of \d+ bits is too large"):
        from_table(table, "notebook")


def test_a_long_sweep_takes_no_longer_a_value(tmp_path: Path) -> None:
    """Nothing is quadratic: five thousand values take a second or so, not minutes."""
    labels = ", ".join(f'"badnets[x={number}]"' for number in range(5000))
    text = inserted(ATTACK, f"sweep.x = {list(range(5000))}") + f"[[block]]\nattack = [{labels}]\n"
    (tmp_path / "grid.toml").write_text(text)
    started = time.process_time()
    assert len(read(tmp_path / "grid.toml").cells) == 5000
    assert time.process_time() - started < 10


VALUES = st.recursive(
    st.booleans() | st.integers(-2, 2) | st.floats(-2, 2).map(round) | st.sampled_from("ab"),
    lambda inside: st.lists(inside, max_size=2) | st.dictionaries(st.sampled_from("ab"), inside),
    max_leaves=4,
)


@given(VALUES, VALUES)
def test_the_identity_of_values_says_which_are_the_same(first: object, second: object) -> None:
    assert (identity(first) == identity(second)) == same(first, second)
    assert identity(first) == identity(first)
