from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from harness import Part
from harness.access.granted import PartAccess
from harness.learn.images import ImageSet, to_float
from harness.learn.recipes import Recipe
from plugins.parts.clean_model import CleanModel
from plugins.parts.pgd import pgd
from plugins.parts.robust_model import RobustModel
from tests.kit.learned import Tiny, stage_context

RECIPE = Recipe(epochs=8, batch=32, lr=0.05, schedule="cosine", precision="fp32")
BALL = 24.0
"""Grey levels: more than the stripes of `striped` and less than its brightness."""


def striped(count: int) -> ImageSet:
    """Two classes. Faint stripes, upright or level, always tell which; brightness does in nine
    cases of ten.
    """
    draw = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 2
    bright = torch.where(torch.rand(count, generator=draw) < 0.1, 1 - labels, labels)[:, None, None]
    line = torch.arange(8) % 2 * 2 - 1
    stripes = torch.where(labels[:, None, None] == 1, line.expand(8, 8), line.expand(8, 8).T)
    noise = torch.randint(-10, 11, (count, 8, 8), generator=draw)
    return ImageSet((80 + 90 * bright + 12 * stripes + noise).to(torch.uint8)[..., None], labels)


def granted(recipe: Recipe = RECIPE) -> PartAccess:
    around = replace(stage_context(stage="part"), recipe=recipe)
    return PartAccess(around, RobustModel.needs, {"train": lambda: striped(300)})


def accuracy(model: nn.Module, perturbed: bool) -> float:
    data = striped(100)
    images, labels = to_float(data.images), torch.arange(100) % 2
    if perturbed:
        images = pgd(model, images, labels, eps=BALL / 255, step=5 / 255, steps=20)
    return float((model(images).argmax(1) == labels).float().mean())


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_it_withstands_what_the_clean_model_does_not(statistics: str) -> None:
    part = RobustModel.model_validate(
        {"eps": BALL, "step": 10.0, "steps": 4, "statistics": statistics}
    )
    robust, clean = part.make(granted()), CleanModel().make(granted())
    assert accuracy(clean, perturbed=False) > 0.95
    assert accuracy(clean, perturbed=True) < 0.5
    assert accuracy(robust, perturbed=True) > 0.8


@pytest.mark.usefixtures("one_thread")
def test_it_repeats_and_leaves_the_global_generator_alone() -> None:
    part = RobustModel(epochs=1, steps=1)
    before = torch.random.get_rng_state()
    first, second = part.make(granted()).state_dict(), part.make(granted()).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.usefixtures("one_thread")
def test_its_length_is_the_recipes_or_its_own() -> None:
    for recipe, epochs, images in [
        (RECIPE.replace(epochs=3), None, 3 * 300),
        (RECIPE.replace(epochs=3), 2, 2 * 300),
        (RECIPE.replace(steps=4), 1, 300),
    ]:
        access = granted(recipe)
        model = RobustModel(epochs=epochs, steps=2).make(access)
        assert access.images_processed == 3 * images
        assert not any(part.training for part in model.modules())


def test_its_structure_is_the_cells_network() -> None:
    model = Tiny().build(Tiny.task)
    assert RobustModel().build(Tiny.task, model) is model


def test_presets_are_valid_and_every_parameter_has_a_meaning() -> None:
    for preset in RobustModel.presets.values():
        RobustModel.model_validate_json(json.dumps(preset))
    assert all(field.description for field in RobustModel.model_fields.values())
    assert issubclass(RobustModel, Part)
