from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import BenchError, NothingSelected
from harness.grid import Cell, nothing_selected, quote, read, select

TEXT = """\
seeds = {victim = [0, 1], defense = [0, 2]}
[[dataset]]
name = "signs"
[[model]]
name = "timm:resnet18"
[[attack]]
name = "badnets"
[[attack]]
name = "sig"
as = "SIG*"
sweep.delta = [20, 60]
[[defense]]
name = "ft"
[[defense]]
name = "ft-sam"
as = "Ours (GTSRB)"
[[defense]]
name = "and"
[[metric]]
name = "acc"
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cell, ...]:
    path: Path = tmp_path_factory.mktemp("grid") / "grid.toml"
    path.write_text(TEXT)
    return read(path).cells


@pytest.mark.parametrize(
    ("expression", "count"),
    [
        ("badnets", 12),
        ("BadNets", 12),
        ("bad", 0),
        ("bad*", 12),
        ("ft", 12),
        ("ft*", 24),
        ('"Ours (GTSRB)"', 12),
        ("'ours (gtsrb)'", 12),
        ("not ft", 24),
        ("badnets and ft", 4),
        ("badnets and not (ft or ft-sam)", 4),
        ("badnets or SIG* and ft", 20),
        ("(badnets or SIG*) and ft", 12),
        ("not not ft", 12),
        ('"and"', 12),
        ('defense="and"', 12),
        ('defense="Ours (GTSRB)" and seed=0', 3),
        ("defense=ft", 12),
        ("model=ft", 0),
        ("timm:resnet18", 36),
        ("delta=20", 12),
        ("attack.delta=20", 12),
        ('"SIG\\*[delta=60]"', 12),
        ("0", 27),
        ("2", 18),
        ("0.2", 9),
        ("seed=0", 9),
        ("victim-seed=1 and defense-seed=0", 9),
        ("  ( ft )and(badnets)", 4),
    ],
)
def test_words_match_whole_names(cells: tuple[Cell, ...], expression: str, count: int) -> None:
    assert len(select(cells, expression)) == count


def test_cells_keep_their_order(cells: tuple[Cell, ...]) -> None:
    assert select(cells, "signs") == list(cells)


def test_a_quoted_name_selects_exactly_its_cell(cells: tuple[Cell, ...]) -> None:
    for cell in cells:
        assert select(cells, quote(cell.name)) == [cell]
    assert select(cells, " or ".join(quote(cell.name) for cell in cells[3:7])) == list(cells[3:7])


@pytest.mark.parametrize(
    ("expression", "column", "what"),
    [
        ("", 1, "a word"),
        ("a and", 6, "a word"),
        ("a b", 3, '"and", "or" or the end'),
        ("(a or b", 8, '")" is needed'),
        ("a)", 2, "the end"),
        ("or a", 1, "a word"),
        ('a and "b', 7, "never closed"),
        ("a and ()", 8, "a word"),
    ],
)
def test_bad_syntax_is_pointed_at(
    cells: tuple[Cell, ...], expression: str, column: int, what: str
) -> None:
    with pytest.raises(BenchError) as caught:
        select(cells, expression)
    lines = str(caught.value).splitlines()
    assert f"at column {column}: " in lines[0]
    assert what in lines[0]
    assert lines[2].index("^") == 4 + column - 1
    assert caught.value.exit_code == 2


def test_nothing_selected_says_why(cells: tuple[Cell, ...]) -> None:
    error = nothing_selected(cells, "badnet and ft")
    assert isinstance(error, NothingSelected)
    assert "no cell has 'badnet'. Did you mean: badnets?" in str(error)
    assert "no cell matches all of it" in str(nothing_selected(cells, "badnets and delta=20"))


@settings(deadline=None)
@given(word=st.text("ab \"'\\*()?[].é", min_size=1))
def test_any_word_can_be_quoted(word: str) -> None:
    from harness.grid.selection import _matcher, _Parser

    parser = _Parser(quote(word))
    parser.parse()
    matches = _matcher(parser.words[0])
    assert matches(frozenset({word.lower()}))
    assert not matches(frozenset({word.lower() + "x"}))
