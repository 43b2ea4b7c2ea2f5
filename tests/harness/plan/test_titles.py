from __future__ import annotations

from pathlib import Path

import pytest

from harness import grid
from harness.grid import Cell
from harness.plan.titles import Titles

GRID = """
seeds = {seeds}
[[attack]]
name = "badnets"
[[defense]]
name = "nad"
[[metric]]
name = "acc"
"""


def cells(
    folder: Path, datasets: str = "a", models: str = "m", seeds: str = "[0]"
) -> tuple[Cell, ...]:
    """Return the cells of a grid; each letter is a dataset or a model."""
    text = GRID.format(seeds=seeds)
    for kind, names in (("dataset", datasets), ("model", models)):
        for name in names:
            text += f'[[{kind}]]\nname = "{name}"\n'
    path = folder / "grid.toml"
    path.write_text(text)
    return tuple(grid.read(path).cells)


@pytest.mark.parametrize(
    ("datasets", "models", "title", "attack_title"),
    [
        ("a", "m", "badnets", "badnets"),
        ("ab", "m", "a · badnets", "a · badnets"),
        ("a", "mn", "m · badnets", "badnets"),
        ("ab", "mn", "a · m · badnets", "a · badnets"),
    ],
)
def test_dataset_and_model_are_named_where_they_vary(
    datasets: str, models: str, title: str, attack_title: str, tmp_path: Path
) -> None:
    made = cells(tmp_path, datasets, models)
    titles = Titles(made)
    first = made[0]
    assert titles.cell(first.dataset, first.model, first.attack) == title
    assert titles.cell(first.dataset, None, first.attack) == attack_title


@pytest.mark.parametrize(
    ("seeds", "victim_title", "alike", "apart"),
    [
        ("[3]", "badnets", "badnets", "badnets"),
        ("[3, 4]", "badnets, seed 3", "badnets, seed 3", "badnets, seed 3.4"),
        (
            "{victim = [3], defense = [3, 4]}",
            "badnets, seed 3",
            "badnets, seed 3",
            "badnets, seed 3.4",
        ),
    ],
)
def test_seeds_are_named_where_they_vary(
    seeds: str, victim_title: str, alike: str, apart: str, tmp_path: Path
) -> None:
    titles = Titles(cells(tmp_path, seeds=seeds))
    assert titles.seeded("badnets", 3) == victim_title
    assert titles.seeded("badnets", 3, 3) == alike
    assert titles.seeded("badnets", 3, 4) == apart


def test_models_of_a_sweep_go_by_their_labels(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    swept = 'as = "Net"\nsweep.width = [8, 16]'
    path.write_text(
        GRID.format(seeds=[0]) + f'[[dataset]]\nname = "a"\n[[model]]\nname = "m"\n{swept}\n'
    )
    made = grid.read(path).cells
    titles = Titles(made)
    named = [titles.cell(cell.dataset, cell.model, cell.attack) for cell in made]
    assert named == [f"{cell.model.label} · badnets" for cell in made]
    assert all(name.startswith("Net") for name in named)
    assert len(set(named)) == 2


def test_no_cells_vary_in_nothing(tmp_path: Path) -> None:
    (cell,) = cells(tmp_path)
    assert Titles([]).cell(cell.dataset, cell.model, cell.attack) == "badnets"
    assert Titles([]).seeded("badnets", 3, 4) == "badnets"
