from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from harness import Incompatible
from plugins.defenses.ft import FT
from plugins.defenses.nad import NAD, attention_loss, attention_map
from plugins.parts.fine_tuning import FineTuning
from tests.kit.learned import Tiny, access_to
from tests.kit.oracles import oracle


@pytest.mark.parametrize("kind", [FT, NAD])
def test_settings_that_no_recipe_can_have_are_refused_at_once(kind: type[FineTuning]) -> None:
    for settings, reason in [
        ({"schedule": "cosine", "rates": [(0, 0.1)]}, "rates goes with schedule"),
        ({"schedule": "table", "rates": []}, "rates goes with schedule"),
        ({"schedule": "table", "rates": [(2, 0.1), (1, 0.1)]}, "ascending"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs a momentum"),
        ({"schedule": "triangle"}, "schedule"),
    ]:
        with pytest.raises(ValidationError, match=reason):
            kind.model_validate_json(json.dumps(settings))


@pytest.mark.parametrize("kind", [FT, NAD])
def test_presets_are_valid_and_every_parameter_has_a_meaning(kind: type[FineTuning]) -> None:
    for preset in kind.presets.values():
        kind.model_validate_json(json.dumps(preset))
    assert all(field.description for field in kind.model_fields.values())


@pytest.mark.oracle
def test_maps_losses_and_gradients_as_the_official_code_has_them() -> None:
    recorded = oracle("defenses/nad_attention")
    close: dict[str, Any] = {
        "rtol": float(recorded["tol_rtol"]),
        "atol": float(recorded["tol_atol"]),
    }
    students = [torch.from_numpy(recorded[f"in_s{n}"]).requires_grad_() for n in (1, 2, 3)]
    teachers = [torch.from_numpy(recorded[f"in_t{n}"]) for n in (1, 2, 3)]
    for name, maps in (("s1", students[0]), ("s3", students[2]), ("t1", teachers[0])):
        np.testing.assert_allclose(
            attention_map(maps).detach()[:, None], recorded[f"out_map_{name}"], **close
        )
    losses = [attention_loss(mine, theirs) for mine, theirs in zip(students, teachers, strict=True)]
    for n, loss in enumerate(losses, 1):
        np.testing.assert_allclose(loss.detach(), recorded[f"out_loss{n}"], **close)
    linear = attention_loss(students[0], teachers[0], 1.0).detach()
    np.testing.assert_allclose(linear, recorded["out_loss1_p1"], **close)
    logits = torch.from_numpy(recorded["in_logits"]).requires_grad_()
    total = functional.cross_entropy(logits, torch.from_numpy(recorded["in_labels"]))
    for beta, loss in zip(recorded["par_betas"].tolist(), losses, strict=True):
        total = total + beta * loss
    np.testing.assert_allclose(total.detach(), recorded["out_total"], **close)
    gradients = torch.autograd.grad(total, [logits, *students])
    for name, gradient in zip(["logits", "s1", "s2", "s3"], gradients, strict=True):
        np.testing.assert_allclose(gradient, recorded[f"out_grad_{name}"], **close)


@pytest.mark.oracle
def test_the_rates_are_the_official_ones() -> None:
    recorded = oracle("defenses/lr_schedules")
    access = access_to(Tiny().build(Tiny.task))
    for defense in (NAD(epochs=40), FT(**{**FT.presets["nad"], "epochs": 40})):
        recipe = defense.tuning(access)
        np.testing.assert_allclose(
            [recipe.lr_at(3 * n, 3) for n in range(40)], recorded["out_nad_epoch0_39"]
        )
    for gentle in (NAD(**{**NAD.presets["bcu"], "teacher": NAD().teacher}), FT()):
        recipe = gentle.tuning(access)
        np.testing.assert_allclose(
            [recipe.lr_at(3 * n, 3) for n in range(100)], recorded["out_bcu_cosine_epoch0_99"]
        )


def test_the_formula_restated_position_by_position() -> None:
    activations = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = attention_map(activations, 2.0)
    for image in range(2):
        summed = np.zeros((4, 5))
        for row in range(4):
            for column in range(5):
                summed[row, column] = sum(
                    float(activations[image, c, row, column]) ** 2 for c in range(3)
                )
        expected = summed / (np.sqrt((summed**2).sum()) + 1e-6)
        np.testing.assert_allclose(found[image], expected, rtol=1e-5)


def test_a_student_like_its_teacher_loses_nothing() -> None:
    activations = torch.randn(2, 3, 4, 4)
    assert float(attention_loss(activations, activations)) == 0


def test_an_all_zero_map_is_zero_not_nan() -> None:
    assert torch.equal(attention_map(torch.zeros(1, 2, 3, 3)), torch.zeros(1, 3, 3))


def test_activations_that_are_no_maps_are_incompatible() -> None:
    with pytest.raises(Incompatible, match=r"\(2, 7\)"):
        attention_map(torch.rand(2, 7))
