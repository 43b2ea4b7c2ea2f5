from __future__ import annotations

import subprocess
import sys
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.learn.recipes import Recipe, RecipeFields
from tests.kit.oracles import oracle
from tests.kit.places import ROOT

NAD = ((0, 0.1), (2, 0.01), (20, 1e-4))
ABL_FINETUNE = ((0, 0.1), (40, 0.01), (60, 0.001))
ABL_UNLEARN = ((0, 5e-4), (5, 1e-4))
MCR = ((49, 0.01), (89, 1e-4))


def by_epoch(recipe: Recipe, steps_per_epoch: int = 7) -> list[float]:
    late = steps_per_epoch // 2
    return [
        recipe.lr_at(epoch * steps_per_epoch + late, steps_per_epoch)
        for epoch in range(recipe.epochs)
    ]


def of_torch(recipe: Recipe, make: Callable[[Any], Any]) -> list[float]:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.lr)
    schedule = make(optimiser)
    rates = []
    for _ in range(recipe.epochs):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return rates


def test_importing_recipes_imports_no_torch() -> None:
    code = "import sys, harness.learn.recipes; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_step_and_cosine_are_those_of_torch() -> None:
    step = Recipe(epochs=30, schedule="step", milestones=(0.3, 0.7), gamma=0.2)
    multi = of_torch(step, lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [9, 21], gamma=0.2))
    assert by_epoch(step) == pytest.approx(multi)
    cosine = Recipe(epochs=30, schedule="cosine", lr=0.01)
    assert by_epoch(cosine) == pytest.approx(
        of_torch(cosine, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 30))
    )


@given(st.integers(4, 60), st.floats(0.3, 0.9))
@settings(deadline=None, max_examples=25)
def test_one_cycle_is_that_of_torch(steps: int, rise: float) -> None:
    recipe = Recipe(epochs=steps, schedule="one-cycle", lr=0.3, warmup=rise)

    def cycle(optimiser: torch.optim.Optimizer) -> torch.optim.lr_scheduler.OneCycleLR:
        length = steps + 1  # one more than needed: torch raises when asked to step past the last
        return torch.optim.lr_scheduler.OneCycleLR(
            optimiser, 0.3, length, pct_start=rise, cycle_momentum=False
        )

    stretched = recipe.replace(horizon=steps + 1.0)
    assert by_epoch(stretched, 1) == pytest.approx(of_torch(recipe, cycle))
    ours = [recipe.lr_at(step, 1) for step in range(steps)]
    assert ours[0] == pytest.approx(0.3 / 25)
    assert ours[-1] == pytest.approx(0.3 / 250_000)


def test_a_horizon_outlasts_the_training() -> None:
    whole = by_epoch(Recipe(epochs=100, schedule="cosine"))
    assert by_epoch(Recipe(epochs=10, schedule="cosine", horizon=100.0)) == whole[:10]


def test_linear_ends_at_zero_and_warms_up() -> None:
    recipe = Recipe(epochs=10, schedule="linear", lr=1.0)
    rates = [recipe.lr_at(step, 10) for step in range(101)]
    assert rates == pytest.approx([1 - step / 100 for step in range(101)])
    warm = recipe.replace(schedule="constant", warmup=0.1)
    assert [warm.lr_at(step, 10) for step in (0, 4, 9, 10, 99)] == pytest.approx(
        [0.1, 0.5, 1, 1, 1]
    )


def test_rates_as_table_and_as_lines() -> None:
    table = Recipe(epochs=6, schedule="table", rates=((1, 0.5), (3, 0.25)))
    assert by_epoch(table) == [0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    lines = table.replace(schedule="piecewise")
    assert by_epoch(lines) == pytest.approx([0.5, 0.5, 0.375, 0.25, 0.25, 0.25])


@pytest.mark.oracle
def test_published_schedules() -> None:
    wanted = oracle("defenses/lr_schedules")
    recipes = {
        "nad_epoch0_39": Recipe(epochs=40, schedule="table", rates=NAD),
        "abl_finetune_epoch0_69": Recipe(epochs=70, schedule="table", rates=ABL_FINETUNE),
        "abl_unlearn_epoch0_7": Recipe(epochs=8, schedule="table", rates=ABL_UNLEARN),
        "mcr_epoch1_100": Recipe(epochs=100, schedule="piecewise", rates=MCR),
        "bcu_cosine_epoch0_99": Recipe(epochs=100, schedule="cosine", lr=0.01),
    }
    for name, recipe in recipes.items():
        np.testing.assert_allclose(
            by_epoch(recipe), wanted[f"out_{name}"], rtol=1e-9, atol=1e-12, err_msg=name
        )


def test_lists_of_json_are_tuples() -> None:
    fields: dict[str, Any] = {
        "schedule": "table",
        "rates": [[0, 1], [5, 0.5]],
        "fill": [0, 0.5, 1],
        "betas": [0.5, 0.9],
    }
    assert Recipe(**fields).rates == ((0.0, 1.0), (5.0, 0.5))
    recipe = Recipe(**fields)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"epoch": 3}, "epoch"),
        ({"epochs": "3"}, "epochs"),
        ({"epochs": -1}, "epochs"),
        ({"lr": float("nan")}, "lr"),
        ({"flip": 1}, "flip"),
        ({"milestones": (0.5, 0.2)}, "ascend"),
        ({"schedule": "table"}, "rates"),
        ({"rates": ((0, 1),)}, "rates"),
        ({"schedule": "piecewise", "rates": ((3, 1), (1, 2))}, "ascending"),
        ({"nesterov": True, "momentum": 0.0}, "momentum"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"fill": (0.1, 0.2)}, "fill"),
    ],
)
def test_nonsense_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Recipe(**fields)
    with pytest.raises(ValidationError, match=told):
        Recipe().replace(**fields)


@given(st.integers(1, 1000), st.integers(1, 200), st.integers(0, 5))
@settings(deadline=None, max_examples=50)
def test_steps_count_batches(count: int, batch: int, epochs: int) -> None:
    recipe = Recipe(batch=batch, epochs=epochs)
    batches = len(range(0, count, batch))
    assert recipe.steps_per_epoch(count) == batches
    assert recipe.total_steps(batches) == batches * epochs
    assert recipe.replace(steps=17).total_steps(batches) == 17
    if count >= batch:
        assert recipe.replace(drop_last=True).steps_per_epoch(count) == count // batch
    else:
        with pytest.raises(ValueError, match="drop_last"):
            recipe.replace(drop_last=True).steps_per_epoch(count)


def test_the_fields_for_type_checkers_are_those_of_the_recipe() -> None:
    hints = typing.get_type_hints(Recipe)  # without what pydantic is told beside the type
    expected = {name: hints[name] for name in Recipe.model_fields}
    assert typing.get_type_hints(RecipeFields) == expected
    assert list(RecipeFields.__annotations__) == list(Recipe.model_fields)
    assert RecipeFields.__required_keys__ == frozenset()


UNCOVERED = {"crop_probability", "rotation_probability", "fill"}
IDLE: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"horizon", "update", "milestones", "gamma", "betas", *UNCOVERED}),
    ({"crop": 4}, {"horizon", "update", "milestones", "gamma", "betas", "rotation_probability"}),
    (
        {"schedule": "table", "rates": ((0.0, 0.1),), "cutout": 2},
        {"lr", "horizon", "milestones", "gamma", "betas", *UNCOVERED} - {"fill"},
    ),
    (
        {"schedule": "step", "optimizer": "adam", "steps": 9},
        {"epochs", "momentum", "nesterov", *UNCOVERED},
    ),
    (
        {"schedule": "piecewise", "rates": ((0.0, 0.1),), "warmup": 0.1},
        {"lr", "milestones", "gamma", "betas", *UNCOVERED},
    ),
]


@pytest.mark.parametrize(("fields", "idle"), IDLE)
def test_fields_that_do_nothing_beside_the_others(fields: dict[str, Any], idle: set[str]) -> None:
    assert Recipe(**fields).unused().keys() == idle


@pytest.mark.parametrize(("fields", "_"), IDLE)
def test_a_rate_that_is_said_to_do_nothing_does_nothing(fields: dict[str, Any], _: object) -> None:
    recipe = Recipe(**fields)
    changed: dict[str, Any] = {
        "lr": 0.7, "horizon": 3.0, "milestones": (0.1,), "gamma": 0.9, "update": "step"
    }  # fmt: skip
    for name, value in changed.items():
        other = recipe.replace(**{name: value})
        same = [recipe.lr_at(step, 3) for step in range(60)] == [
            other.lr_at(step, 3) for step in range(60)
        ]
        assert same or name not in recipe.unused(), name
