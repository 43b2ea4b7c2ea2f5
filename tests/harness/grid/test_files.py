from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import GridError, Problem
from harness.grid import Cell, Grid, read
from harness.grid.nodes import shown

Write = Callable[..., Path]

SMALL = """\
[[dataset]]
name = "signs"
[[model]]
name = "small-cnn"
[[attack]]
name = "badnets"
[[defense]]
name = "none"
[[metric]]
name = "acc"
"""

BCU = """\
title = "Backdoor cleansing with unlabeled data, Table 1"

[[dataset]]
name = "cifar10"
pool = 5000
[[model]]
name = "resnet18"

[[attack]]
name = "badnets"
poison_rate = 0.1
[[attack]]
name = "sig"
label_map = "all-to-one"
established = {asr = 0.9, acc = 0.85}

[defender]
clean = 2500

[[defense]]
name = "none"
[[defense]]
name = "ft"
[[defense]]
name = "bcu"
as = "Ours"
grant.clean-unlabelled = {dataset = {name = "gtsrb", split_seed = 1}, count = 2500}
[[defense]]
name = "ft"
as = "Ours+ft"
on = "Ours"

[training]
recipe = "bcu"
epochs = 200

[[metric]]
name = "acc"
[[metric]]
name = "asr"

# 14 models: five seeds of target 0, one of each other target
[[block]]
seeds = [0, 1, 2, 3, 4]
[[block]]
seeds = [0]
sweep.attack.target = [1, 2, 3, 4, 5, 6, 7, 8, 9]

[[table]]
title = "Table 1"
rows = ["attack"]
columns = ["defense", "metric"]
over = ["seed", "attack.target"]
average = true
reference = "bcu-1.csv"
"""

DECK = (
    "seeds = [0]\n"
    + "".join(
        f'[[dataset]]\nname = "{name}"\n'
        for name in ("cifar10", "stl10", "svhn", "gtsrb", "celeba8")
    )
    + "".join(
        f'[[model]]\nname = "{name}"\n'
        for name in ("resnet32", "vgg13", "resnet20", "nin", "resnet18")
    )
    + """\
[[attack]]
name = "dfst"
sweep.detox = [1, 3]
[[attack]]
name = "blend"
alpha = 0.2
[[attack]]
name = "sig"
poison_rate = 0.08
[[attack]]
name = "wanet"
[[attack]]
name = "lc"
target = 3
[[defense]]
name = "none"
[[defense]]
name = "deck"
[[metric]]
name = "asr"
[[block]]
dataset = ["cifar10", "stl10"]
model = ["resnet32", "vgg13"]
attack = ["dfst"]
[[block]]
dataset = ["cifar10"]
model = ["resnet20"]
attack = ["blend", "sig"]
[[block]]
dataset = ["svhn"]
model = ["nin"]
attack = ["blend", "sig"]
[[block]]
dataset = ["cifar10", "gtsrb", "celeba8"]
model = ["resnet18"]
attack = ["wanet"]
[[block]]
dataset = ["cifar10"]
model = ["resnet18"]
attack = ["lc"]
[[table]]
rows = ["dataset", "model", "attack"]
columns = ["defense", "metric"]
reference = "deck-4.csv"
"""
)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str, name: str = "grid.toml") -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return written


@pytest.fixture
def bcu(write: Write, tmp_path: Path) -> Grid:
    (tmp_path / "bcu-1.csv").touch()
    return read(write(BCU, "bcu.toml"))


def names(grid: Grid) -> list[str]:
    return [cell.name for cell in grid.cells]


# --- grids of the papers --------------------------------------------------------------------------


def test_bcu_has_fourteen_models_of_each_attack(bcu: Grid) -> None:
    victims = {
        (cell.attack.label, cell.victim_seed) for cell in bcu.cells if cell.attack.name == "badnets"
    }
    assert len(victims) == 14
    assert {seed for label, seed in victims if label == "badnets"} == {0, 1, 2, 3, 4}
    assert ("badnets[target=9]", 0) in victims
    assert len(bcu.cells) == 14 * 2 * 4


def test_bcu_table_and_grants(bcu: Grid, tmp_path: Path) -> None:
    (table,) = bcu.tables
    assert (table.rows, table.columns, table.over) == (
        ("attack",),
        ("defense", "metric"),
        ("seed", "attack.target"),
    )
    assert table.average
    assert table.reference == tmp_path / "bcu-1.csv"
    assert table.metrics == ("acc", "asr")
    assert bcu.defender == {"clean": 2500}
    assert bcu.training == {"recipe": "bcu", "epochs": 200}
    ours = next(entry for entry in bcu.entries if entry.label == "Ours")
    assert (ours.name, ours.base) == ("bcu", "Ours")
    assert ours.grant == {
        "clean-unlabelled": {"dataset": {"name": "gtsrb", "split_seed": 1}, "count": 2500}
    }


def test_a_chain_goes_from_the_victim_to_the_cells_own_defense(bcu: Grid) -> None:
    cell = next(cell for cell in bcu.cells if cell.defense.label == "Ours+ft")
    assert [defense.label for defense in cell.chain] == ["Ours", "Ours+ft"]
    assert cell.chain[0] in bcu.entries


def test_places_are_the_lines_of_the_file(bcu: Grid) -> None:
    lines = BCU.splitlines()
    swept = next(entry for entry in bcu.entries if entry.label == "sig[target=3]")
    assert lines[(swept.at("label_map").line or 0) - 1].startswith("label_map")
    assert lines[(swept.at("target").line or 0) - 1].startswith("sweep.attack.target")
    assert swept.at("target").key == "block[1].sweep.attack.target[2]"
    assert (swept.at("alpha").line, swept.at("alpha").key) == (swept.place.line, "attack[1].alpha")
    assert lines[(bcu.place("training").line or 0) - 1] == "[training]"
    assert lines[(bcu.place("training", "epochs").line or 0) - 1] == "epochs = 200"
    assert swept.params == {"label_map": "all-to-one", "target": 3}
    assert swept.established == {"asr": 0.9, "acc": 0.85}


def test_deck_has_sixteen_triples(write: Write, tmp_path: Path) -> None:
    (tmp_path / "deck-4.csv").touch()
    grid = read(write(DECK))
    triples = {(cell.dataset.label, cell.model.label, cell.attack.label) for cell in grid.cells}
    assert len(triples) == 16
    assert len(grid.cells) == 32
    assert ("stl10", "vgg13", "dfst[detox=3]") in triples


def test_a_small_version_of_a_grid(bcu: Grid, write: Write) -> None:
    path = write(
        """\
extends = "bcu.toml"
training.epochs = 2
[[dataset]]
name = "cifar10"
take = 1000
[[attack]]
name = "badnets"
poison_rate = 0.2
[[attack]]
name = "wanet"
[[defense]]
as = "Ours"
grant.clean-unlabelled = 100
[[block]]
attack = ["badnets", "wanet"]
defense = ["none", "Ours"]
sweep.attack.target = [0, 1]
""",
        "small.toml",
    )
    small = read(path)
    assert small.title == bcu.title
    assert [cell.name.rpartition("resnet18/")[2] for cell in small.cells] == [
        f"{attack}[target={target}]/{defense}/0.0"
        for attack in ("badnets", "wanet")
        for target in (0, 1)
        for defense in ("none", "Ours")
    ]
    assert small.training == {"recipe": "bcu", "epochs": 2}
    dataset, attack = small.cells[0].dataset, small.cells[0].attack
    assert dataset.params == {"pool": 5000, "take": 1000}
    assert attack.params == {"poison_rate": 0.2, "target": 0}
    assert (dataset.at("pool").file.name, dataset.at("pool").line) == ("bcu.toml", 5)
    assert (dataset.at("take").file.name, dataset.at("take").line) == ("small.toml", 5)
    ours = small.cells[1].defense
    assert (ours.name, ours.grant) == ("bcu", {"clean-unlabelled": 100})


# --- entries, sweeps, seeds -----------------------------------------------------------------------


def test_the_smallest_grid(write: Write) -> None:
    grid = read(write(SMALL))
    assert names(grid) == ["signs/small-cnn/badnets/none/0.0"]
    assert grid.title == "grid"
    (table,) = grid.tables
    assert (table.rows, table.columns, table.over) == (("attack",), ("defense", "metric"), ())
    assert grid.defender == grid.training == {}
    assert [entry.kind for entry in grid.entries] == [
        "dataset",
        "model",
        "attack",
        "defense",
        "metric",
    ]


def test_the_default_table_names_every_axis_that_varies(write: Write) -> None:
    more = 'seeds = [0, 1]\n[[dataset]]\nname = "npz"\n'
    more += '[[model]]\nname = "resnet18"\nsweep.width = [8, 16]\n'
    (table,) = read(write(more + SMALL)).tables
    assert (table.rows, table.over) == (("dataset", "model", "attack"), ("seed",))


def test_sweeps_are_products_in_the_order_of_the_file(write: Write) -> None:
    grid = read(
        write(
            SMALL
            + '[[attack]]\nname = "sig"\nsweep.delta = [60, 20]\nsweep.f = [6, 0.5]\nlabel = true\n'
        )
    )
    sig = [cell.attack for cell in grid.cells if cell.attack.name == "sig"]
    assert [attack.label for attack in sig] == [
        "sig[delta=60, f=6]",
        "sig[delta=60, f=0.5]",
        "sig[delta=20, f=6]",
        "sig[delta=20, f=0.5]",
    ]
    assert list(sig[0].swept.items()) == [("delta", 60), ("f", 6)]
    assert sig[0].params == {"label": True, "delta": 60, "f": 6}


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ('"all"', "all"),
        ("true", "true"),
        ("1e-5", "1e-05"),
        ("[1, 2]", "[1, 2]"),
        ('{name = "ft"}', '{name = "ft"}'),
    ],
)
def test_labels_show_swept_values_as_toml_does(write: Write, value: str, label: str) -> None:
    grid = read(write(SMALL.replace('"badnets"', f'"badnets"\nsweep.x = [{value}]')))
    assert grid.cells[0].attack.label == f"badnets[x={label}]"


def test_a_defense_on_a_swept_one_runs_on_each_of_it(write: Write) -> None:
    text = '[[defense]]\nname = "ft"\non = "anp"\nsweep.epochs = [1, 2]\n'
    text += '[[defense]]\nname = "anp"\nsweep.t = [3, 4]\n'
    text += '[[defense]]\nname = "last"\non = "ft[on=anp[t=4], epochs=2]"\n'
    text += '[[defense]]\nname = "one"\non = "anp[t=3]"\n'
    grid = read(write(SMALL + text))
    fts = [cell.defense for cell in grid.cells if cell.defense.name == "ft"]
    assert [(ft.label, ft.on and ft.on.label) for ft in fts] == [
        ("ft[on=anp[t=3], epochs=1]", "anp[t=3]"),
        ("ft[on=anp[t=4], epochs=1]", "anp[t=4]"),
        ("ft[on=anp[t=3], epochs=2]", "anp[t=3]"),
        ("ft[on=anp[t=4], epochs=2]", "anp[t=4]"),
    ]
    assert fts[0].params == {"epochs": 1}
    chains = {cell.defense.label: [defense.label for defense in cell.chain] for cell in grid.cells}
    assert chains["last"] == ["anp[t=4]", "ft[on=anp[t=4], epochs=2]", "last"]
    assert chains["one"] == ["anp[t=3]", "one"]


@pytest.mark.parametrize(
    ("seeds", "pairs"),
    [
        ("[0, 1]", {(0, 0), (1, 1)}),
        ("{victim = [5], defense = [0, 1]}", {(5, 0), (5, 1)}),
        ("{defense = [2]}", {(0, 2)}),
        ("{victim = [2, 3], defense = [4, 5]}", {(2, 4), (2, 5), (3, 4), (3, 5)}),
    ],
)
def test_seeds(write: Write, seeds: str, pairs: set[tuple[int, int]]) -> None:
    grid = read(write(f"seeds = {seeds}\n{SMALL}"))
    assert {(cell.victim_seed, cell.defense_seed) for cell in grid.cells} == pairs


def test_the_seeds_of_the_nearest_entry_count(write: Write) -> None:
    text = SMALL
    levels = [
        ("grid", 1),
        ("block", 2),
        ("dataset", 3),
        ("model", 4),
        ("attack", 5),
        ("defense", 6),
    ]
    for level, seed in levels:
        if level == "grid":
            text = f"seeds = [{seed}]\n{text}"
        elif level == "block":
            text += f"[[block]]\nseeds = [{seed}]\n"
        else:
            text = text.replace(f"[[{level}]]\n", f"[[{level}]]\nseeds = [{seed}]\n")
        assert [cell.victim_seed for cell in read(write(text)).cells] == [seed]


# --- blocks ---------------------------------------------------------------------------------------

THREE = SMALL + '[[attack]]\nname = "sig"\nsweep.delta = [20, 60]\n[[defense]]\nname = "ft"\n'


def test_blocks_are_a_union_without_duplicates(write: Write) -> None:
    blocks = '[[block]]\nattack = ["sig"]\n'
    blocks += '[[block]]\nattack = ["sig[delta=20]", "badnets"]\ndefense = ["ft"]\n'
    grid = read(write(THREE + blocks))
    found = [(cell.attack.label, cell.defense.label) for cell in grid.cells]
    sigs = [(f"sig[delta={delta}]", defense) for delta in (20, 60) for defense in ("none", "ft")]
    assert found == [*sigs, ("badnets", "ft")]


def test_set_changes_parameters_and_not_labels(write: Write) -> None:
    grid = read(
        write(
            THREE + '[[block]]\nattack = ["badnets"]\nset.attack.target = 2\nset.defense.lr = 0.1\n'
        )
    )
    assert names(grid) == [f"signs/small-cnn/badnets/{defense}/0.0" for defense in ("none", "ft")]
    attack = grid.cells[0].attack
    assert (attack.params, attack.swept) == ({"target": 2}, {})
    assert attack.at("target").key == "block[0].set.attack.target"
    assert grid.cells[1].defense.params == {"lr": 0.1}


def test_equal_entries_of_two_blocks_are_one_object(write: Write) -> None:
    block = '[[block]]\nattack = ["badnets"]\nset.attack.target = 2\n'
    grid = read(write(THREE + block + 'defense = ["ft"]\n' + block + 'defense = ["none"]\n'))
    assert len({id(cell.attack) for cell in grid.cells}) == 1
    assert sum(entry.kind == "attack" for entry in grid.entries) == 1


def test_a_chain_inside_a_block_has_the_blocks_settings(write: Write) -> None:
    chain = SMALL + '[[defense]]\nname = "anp"\n[[defense]]\nname = "ft"\non = "anp"\n'
    inside = read(write(chain + '[[block]]\ndefense = ["ft", "anp"]\nset.defense.lr = 0.1\n'))
    assert [defense.params for defense in inside.cells[-1].chain] == [{"lr": 0.1}, {"lr": 0.1}]
    alone = read(write(chain + '[[block]]\ndefense = ["ft"]\nset.defense.lr = 0.1\n'))
    assert [defense.params for defense in alone.cells[0].chain] == [{}, {"lr": 0.1}]
    swept = read(write(chain + "[[block]]\nsweep.defense.lr = [1, 2]\n"))
    fts = [cell.defense for cell in swept.cells if cell.defense.name == "ft"]
    assert [ft.label for ft in fts] == [
        f"ft[on=anp[lr={anp}], lr={ft}]" for ft in (1, 2) for anp in (1, 2)
    ]
    assert [
        [step.params["lr"] for step in cell.chain] for cell in swept.cells if cell.defense in fts
    ] == [
        [1, 1],
        [2, 1],
        [1, 2],
        [2, 2],
    ]


# --- extends --------------------------------------------------------------------------------------


def test_extends_goes_through_several_files_and_folders(write: Write, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    write("title = 'first'\nseeds = [0]\n" + SMALL, "below/first.toml")
    write('extends = "first.toml"\nseeds = [7]\n', "below/second.toml")
    grid = read(write('extends = "below/second.toml"\ntitle = "third"\n'))
    assert (grid.title, names(grid)) == ("third", ["signs/small-cnn/badnets/none/7.7"])
    assert grid.cells[0].attack.place.file.name == "first.toml"


def test_extends_replaces_blocks_tables_and_lists(write: Write) -> None:
    base = (
        THREE + '[[block]]\ndefense = ["ft"]\n[[table]]\nrows = ["attack"]\ncolumns = ["metric"]\n'
    )
    write(base, "base.toml")
    kept = read(write('extends = "base.toml"\n'))
    assert {cell.defense.label for cell in kept.cells} == {"ft"}
    assert kept.tables[0].columns == ("metric",)
    replaced = read(
        write(
            'extends = "base.toml"\n[[block]]\nattack = ["badnets"]\n'
            '[[table]]\nrows = ["defense"]\ncolumns = ["attack", "metric"]\n'
        )
    )
    assert {cell.defense.label for cell in replaced.cells} == {"none", "ft"}
    assert [table.rows for table in replaced.tables] == [("defense",)]


@pytest.mark.parametrize(
    ("child", "labels"),
    [
        ("delta = 30", ["sig"]),
        ("sweep.delta = [5]", ["sig[delta=5, f=1]", "sig[delta=5, f=2]"]),
        ("f = 9", ["sig[delta=20]", "sig[delta=60]"]),
        ("target = 3", [f"sig[delta={delta}, f={f}]" for delta in (20, 60) for f in (1, 2)]),
        ("sweep.target = [3]\nf = 1\ndelta = 1", ["sig[target=3]"]),
    ],
)
def test_extends_turns_swept_into_set_and_back(write: Write, child: str, labels: list[str]) -> None:
    base = SMALL.replace('"badnets"', '"sig"\nsweep.delta = [20, 60]\nsweep.f = [1, 2]')
    write(base, "base.toml")
    extra = "\nf = 9" if child == "delta = 30" else ""
    grid = read(write(f'extends = "base.toml"\n[[attack]]\nname = "sig"\n{child}{extra}\n'))
    assert [cell.attack.label for cell in grid.cells] == labels


def test_a_reference_to_another_component_brings_its_own_parameters(write: Write) -> None:
    write(
        SMALL.replace('"none"', '"nad"\nteacher = {name = "ft", epochs = 10}\ngrant = {clean = 5}'),
        "base.toml",
    )
    child = 'extends = "base.toml"\n[[defense]]\nname = "nad"\ngrant.clean-labelled = 6\n'
    same = read(write(child + "teacher.epochs = 3\n")).cells[0].defense
    assert same.params == {"teacher": {"name": "ft", "epochs": 3}}
    assert same.grant == {"clean": 5, "clean-labelled": 6}
    other = read(write(child + 'teacher = {name = "anp"}\n')).cells[0].defense
    assert other.params == {"teacher": {"name": "anp"}}


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "over"),
    [
        (["attack"], ["seed"]),
        (["attack"], ["victim-seed", "defense-seed"]),
        (["attack", "victim-seed"], ["defense-seed"]),
        (["attack"], ["attack.delta", "seed"]),
        (["attack.delta"], ["attack", "seed"]),
        (["attack.target", "attack"], ["seed"]),
    ],
)
def test_tables_that_name_every_axis(write: Write, rows: list[str], over: list[str]) -> None:
    text = "seeds = [0, 1]\n" + THREE.replace('"badnets"', '"badnets"\ntarget = 1')
    columns = ["defense", "metric"]
    (table,) = read(
        write(f"{text}[[table]]\nrows = {rows}\ncolumns = {columns}\nover = {over}\n")
    ).tables
    assert (table.rows, table.columns, table.over) == (tuple(rows), tuple(columns), tuple(over))


def test_a_table_of_some_metrics(write: Write) -> None:
    text = (
        SMALL + '[[metric]]\nname = "distance"\nsweep.norm = [1, 2]\n[[table]]\nrows = ["attack"]\n'
    )
    one = read(write(text + 'columns = ["defense"]\nmetrics = ["acc"]\n')).tables[0]
    assert one.metrics == ("acc",)
    two = read(write(text + 'columns = ["metric.norm"]\nmetrics = ["distance"]\n')).tables[0]
    assert two.metrics == ("distance[norm=1]", "distance[norm=2]")


def test_reference_values_of_the_box_are_found(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = tmp_path / "box" / "reference"
    box.mkdir(parents=True)
    (box / "x.csv").touch()
    monkeypatch.setattr("harness.grid.tables.BENCHMARKS", box.parent)
    table = '[[table]]\nrows = ["attack"]\ncolumns = ["metric"]\nreference = "reference/x.csv"\n'
    assert read(write(SMALL + table)).tables[0].reference == box / "x.csv"


# --- properties -----------------------------------------------------------------------------------

AXIS = st.lists(
    st.sampled_from(["a", "b", "c", "d e", "ü", 'q"']), min_size=1, max_size=3, unique=True
)
SEEDS = st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True)


@settings(deadline=None, max_examples=40)
@given(
    axes=st.tuples(AXIS, AXIS, AXIS, AXIS),
    seeds=SEEDS,
    sweep=st.lists(st.integers(-(2**62), 2**62), max_size=3, unique=True),
)
def test_the_cells_are_the_product(
    tmp_path_factory: pytest.TempPathFactory,
    axes: tuple[list[str], ...],
    seeds: list[int],
    sweep: list[int],
) -> None:
    text = f"seeds = {seeds}\n"
    for kind, labels in zip(("dataset", "model", "attack", "defense"), axes, strict=True):
        text += "".join(f"[[{kind}]]\nname = {shown(label)}\n" for label in labels)
    text += f"sweep.x = {sweep}\n" if sweep else ""
    path = tmp_path_factory.mktemp("grid") / "grid.toml"
    path.write_text(text + '[[metric]]\nname = "acc"\n', encoding="utf-8")
    grid = read(path)
    last = len(axes[3]) - 1 + max(1, len(sweep))
    assert len(grid.cells) == len(axes[0]) * len(axes[1]) * len(axes[2]) * last * len(seeds)
    assert len(set(names(grid))) == len(grid.cells)


JSON = st.recursive(
    st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("a\"\\\n'é", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text('a ."', max_size=2), inner, max_size=2)
    ),
    max_leaves=5,
)


@given(JSON)
@settings(deadline=None)
def test_values_are_shown_as_toml(value: Any) -> None:
    assert tomllib.loads(f"value = {shown(value)}")["value"] == value


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_damaged_grid_is_read_or_refused_with_places(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    lines = BCU.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(lines) - 1))
        other = data.draw(
            st.sampled_from(
                [*lines, "x = nan", "[[attack]]", "seeds = 1", "on = 3", "sweep = []", "]"]
            )
        )
        lines[position] = data.draw(
            st.sampled_from(["", other, lines[position].partition("=")[0] + "= [1, 'a']"])
        )
    path = tmp_path_factory.mktemp("grid") / "grid.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    problems, cells = outcome(path)
    assert problems or cells
    assert all(problem.line and 1 <= problem.line <= len(lines) + 1 for problem in problems)
    assert len(set(problems)) == len(problems)
    assert len({cell.name for cell in cells}) == len(cells)


def outcome(path: Path) -> tuple[tuple[Problem, ...], tuple[Cell, ...]]:
    try:
        return (), read(path).cells
    except GridError as error:
        return error.problems, ()


def test_cells_can_be_compared(bcu: Grid) -> None:
    first, second = bcu.cells[:2]
    assert first == Cell(*first.entries, first.victim_seed, first.defense_seed)
    assert len({first, second, first}) == 2
