from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.access.granted import Access
from harness.components import Model
from harness.learn.evaluation import predict
from harness.learn.images import ImageSet
from harness.learn.recipes import Recipe
from plugins.defenses.long_training import LongTraining
from plugins.models.small_cnn import SmallCNN
from plugins.parts.stretching import stretched
from tests.kit.learned import judged, pictures, stage_context, stamped

pytestmark = pytest.mark.usefixtures("one_thread")


def poisoned(count: int = 90) -> ImageSet:
    data = pictures(count)
    poison = ImageSet(stamped(data), torch.zeros(count, dtype=torch.int64))
    return data.join(poison)


def training(data: ImageSet, model: Model | None = None, **fields: Any) -> Access:
    recipe = Recipe(**{"epochs": 1, "batch": 16, "lr": 0.05, "precision": "fp32", **fields})
    return Access(
        replace(stage_context(model), recipe=recipe),
        LongTraining.needs,
        {"training-set": lambda: data},
    )


def test_it_trains_to_zero_training_error_and_says_so() -> None:
    """Nor does it undo the backdoor: DECK's finding."""
    access = training(poisoned(), SmallCNN(width=8), schedule="cosine")
    result = LongTraining(epochs=10).defend(access)
    assert result.record == {"training_error": 0.0}
    assert access.images_processed == 10 * 180 + 180 // 3  # the training error is a forward pass
    assert result.model is not None
    accuracy, success = judged(result.model)
    assert accuracy > 0.9
    assert success > 0.9


def test_the_training_error_is_a_share_of_the_delivered_labels() -> None:
    data = pictures(90)
    access = training(data, lr=1e-4)
    result = LongTraining(epochs=1).defend(access)
    assert result.model is not None
    assert data.labels is not None
    found, _ = predict(result.model, data.images)
    assert result.record["training_error"] == pytest.approx(
        float((found != data.labels).float().mean())
    )
    assert result.record["training_error"] > 0


def test_what_happens_at_an_epoch_moves_with_the_length() -> None:
    recipe = Recipe(epochs=100, schedule="table", rates=((0.0, 0.1), (50.0, 0.01)), horizon=80.0)
    longer = stretched(recipe, 250, 1000)
    assert (longer.epochs, longer.rates, longer.horizon) == (
        250,
        ((0.0, 0.1), (125.0, 0.01)),
        200.0,
    )
    counted = stretched(Recipe(steps=40, batch=100, horizon=4.0), 8, 1000)
    assert (counted.steps, counted.epochs, counted.horizon) == (None, 8, 8.0)
    assert stretched(Recipe(epochs=0, horizon=3.0), 5, 1000).horizon == 3.0


@given(
    st.sampled_from(["constant", "step", "cosine", "linear"]), st.integers(1, 5), st.integers(0, 39)
)
def test_a_stretched_schedule_has_the_rates_of_the_short_one(
    schedule: Any, factor: int, step: int
) -> None:
    recipe = Recipe(epochs=4, batch=10, schedule=schedule, update="step")
    longer = stretched(recipe, 4 * factor, 100)
    assert longer.lr_at(factor * step, 10) == pytest.approx(recipe.lr_at(step, 10))


def test_presets_are_valid_and_every_parameter_has_a_meaning() -> None:
    lengths = {
        LongTraining.model_validate_json(json.dumps(preset)).epochs
        for preset in LongTraining.presets.values()
    }
    assert lengths == {250, 300}
    assert all(field.description for field in LongTraining.model_fields.values())
