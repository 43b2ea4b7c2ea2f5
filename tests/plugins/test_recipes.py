from __future__ import annotations

import pytest

from harness.learn.recipes import Recipe
from plugins.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_one(name: str) -> None:
    recipe = Recipe.model_validate(RECIPES[name])
    assert 0 < recipe.lr_at(0, 10) <= recipe.lr


@pytest.mark.parametrize(
    ("name", "epochs", "rates"),
    [
        ("anp", 200, {0: 0.1, 99: 0.1, 100: 0.01, 149: 0.01, 150: 0.001, 199: 0.001}),
        ("bcu", 200, {0: 0.1, 99: 0.1, 100: 0.01, 149: 0.01, 150: 0.001, 199: 0.001}),
        ("deck", 250, {0: 0.1, 49: 0.1, 50: 0.01, 100: 1e-3, 150: 1e-4, 200: 1e-5, 249: 1e-5}),
        ("wanet", 1000, {0: 0.01, 99: 0.01, 100: 1e-3, 200: 1e-4, 300: 1e-5, 400: 1e-6, 999: 1e-6}),
        (
            "iab",
            575,
            {
                0: 0.01,
                99: 0.01,
                100: 1e-3,
                199: 1e-3,
                200: 1e-4,
                300: 1e-5,
                399: 1e-5,
                400: 1e-6,
                574: 1e-6,
            },
        ),
        ("wanet-bcu", 200, {0: 0.01, 99: 0.01, 100: 1e-3, 199: 1e-3}),
        ("iab-bcu", 125, {0: 0.01, 99: 0.01, 100: 1e-3, 124: 1e-3}),
        ("trap", 200, {0: 1e-3, 100: 5e-4}),
        ("dfst", 200, {0: 0.1, 39: 0.1, 40: 0.01, 119: 0.01, 120: 1e-3, 199: 1e-3}),
    ],
)
def test_a_paper_s_rates_by_epoch(name: str, epochs: int, rates: dict[int, float]) -> None:
    recipe = Recipe.model_validate(RECIPES[name])
    assert recipe.epochs == epochs
    for epoch, rate in rates.items():
        assert recipe.lr_at(epoch * 7, 7) == pytest.approx(rate)


def test_signs_are_never_mirrored() -> None:
    assert not Recipe.model_validate(RECIPES["signs"]).flip


def test_batches_at_the_end_of_an_epoch() -> None:
    """BCU's code drops the last one of its other attacks, and keeps it with IAB's."""
    dropped = {name for name, fields in RECIPES.items() if Recipe.model_validate(fields).drop_last}
    assert dropped == {"bcu", "trap"}
