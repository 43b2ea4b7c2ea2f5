from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness import Anatomy, Task, Undeclared
from harness.learn.images import to_float
from plugins.defenses.bcu import BCU, distillation, mixed, scaled
from plugins.models.resnet18 import ResNet18
from tests.kit.learned import access_to, pictures, trained
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")

NEEDS = frozenset({"victim", "clean-unlabelled"})
STATES = ("running_mean", "running_var", "num_batches_tracked")


def settings(**fields: Any) -> BCU:
    return BCU(**{"epochs": 2, "batch": 16, **fields})


def defended(defense: BCU, net: nn.Module, count: int = 30) -> Any:
    return defense.defend(access_to(net, data=pictures(count), needs=NEEDS))


@pytest.mark.oracle
def test_losses_gradients_and_temperatures_as_the_official_code_has_them() -> None:
    recorded = oracle("defenses/bcu_kd")
    close: dict[str, Any] = {
        "rtol": float(recorded["tol_rtol"]),
        "atol": float(recorded["tol_atol"]),
    }
    teacher = torch.from_numpy(recorded["in_teacher"])
    for place, temperature in enumerate(recorded["par_T"].tolist()):
        student = torch.from_numpy(recorded["in_student"]).requires_grad_()
        loss = distillation(student, teacher, temperature)
        np.testing.assert_allclose(loss.detach(), recorded["out_loss"][place], **close)
        gradient = torch.autograd.grad(loss, student)[0]
        np.testing.assert_allclose(gradient, recorded["out_grad"][place], **close)
    student = torch.from_numpy(recorded["in_student"]).requires_grad_()
    hard = nn.functional.cross_entropy(student, teacher.argmax(1))
    np.testing.assert_allclose(hard.detach(), recorded["out_hard_loss"], **close)
    np.testing.assert_allclose(
        torch.autograd.grad(hard, student)[0], recorded["out_hard_grad"], **close
    )
    schedule = [BCU().temperature_at(epoch) for epoch in recorded["par_schedule_epoch"].tolist()]
    np.testing.assert_allclose(schedule, recorded["out_T_schedule"])


@pytest.mark.oracle
def test_weights_mix_as_in_the_official_code() -> None:
    recorded = oracle("defenses/bcu_init")
    stem, *stages, head = recorded["par_ratios_used_for_student_arrays"].tolist()
    ratios = {
        "conv1": stem,
        "fc": head,
        **{f"layer{n}": ratio for n, ratio in enumerate(stages, 1)},
    }
    for name in [key.removeprefix("in_R_") for key in recorded if key.startswith("in_R_")]:
        if f"out_student_{name}" not in recorded or "bn" in name or "shortcut_1" in name:
            continue
        given = [
            torch.from_numpy(recorded[f"in_{kind}_{name}"]) for kind in ("teacher", "fresh", "R")
        ]
        found = mixed(*given, ratios[name.partition("_")[0]])
        np.testing.assert_allclose(found, recorded[f"out_student_{name}"], rtol=0, atol=1e-7)


@pytest.mark.oracle
def test_the_ratios_of_a_resnet18_are_the_official_ones() -> None:
    recorded = oracle("defenses/bcu_init")
    model = ResNet18()
    net = model.build(Task("any", 10, 32, 32, 3, 100))
    found = BCU().ratios(net, model.anatomy(net))
    state = net.state_dict()
    assert [value.numel() for value in state.values()] == recorded[
        "out_numel_bcu_resnet18"
    ].tolist()
    np.testing.assert_allclose(
        [found.get(name, -1) for name in state], recorded["out_ratio_bcu_resnet18"]
    )
    share = sum(ratio * state[name].numel() for name, ratio in found.items()) / sum(
        state[name].numel() for name in found
    )
    assert share == pytest.approx(float(recorded["out_overall_reinit_fraction"]), abs=1e-6)


def test_the_loss_restated_class_by_class() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 3, generator=generator).double()
    total = 0.0
    for mine, theirs in zip(student.numpy(), teacher.numpy(), strict=True):
        p, q = np.exp(theirs / 2.5), np.exp(mine / 2.5)
        p, q = p / p.sum(), q / q.sum()
        total += float((p * np.log(p / q)).sum())
    assert float(distillation(student, teacher, 2.5)) == pytest.approx(total / 4)


def test_a_student_like_its_teacher_loses_nothing() -> None:
    """With nothing drawn anew, and both in evaluation mode."""
    net = trained(epochs=2)
    result = defended(settings(epochs=0, stem=0.0, stages=(0.0,), head=0.0), net)
    assert result.record == {"redrawn": 0.0}
    images = to_float(pictures().images)
    with torch.no_grad():
        assert float(distillation(result.model(images), net(images), 1.7)) == pytest.approx(
            0, abs=1e-7
        )


def test_batchnorm_is_copied_and_the_rest_is_drawn_at_its_ratio() -> None:
    net = trained(epochs=1)
    result = defended(settings(epochs=0, stem=0.0, stages=(1.0,), head=0.5), net)
    before, after = net.state_dict(), result.model.state_dict()
    changed = {name: float((after[name] != before[name]).float().mean()) for name in before}
    assert changed["stage1.0.weight"] == changed["stage1.0.bias"] == 1.0
    assert 0.2 < changed["head.weight"] < 0.8
    assert {name for name, share in changed.items() if share} <= {
        "stage1.0.weight",
        "stage1.0.bias",
        "head.weight",
        "head.bias",
    }
    weights = 4 * 8 * 9 + 8 + 4 * 9 + 4 + 8 * 3 + 3
    assert result.record["redrawn"] == pytest.approx((4 * 8 * 9 + 8 + 13.5) / weights, abs=0.03)


def staged(count: int) -> tuple[nn.Module, Anatomy]:
    net = nn.Sequential()
    for name in ("stem", *(f"stage{n}" for n in range(1, count + 1)), "last", "head"):
        net.add_module(name, nn.Linear(2, 2, bias=False))
    stages = tuple(f"stage{n}" for n in range(1, count + 1))
    return net, Anatomy(stem="stem", stages=stages, features="last", head="head")


@pytest.mark.parametrize(
    ("init", "count", "expected"),
    [
        ("increasing", 4, [0.01, 0.01, 0.03, 0.09, 0.27, 0.27, 0.1]),
        ("increasing", 3, [0.01, 0.03, 0.09, 0.27, 0.27, 0.1]),
        ("increasing", 5, [0.01, 0.01, 0.01, 0.03, 0.09, 0.27, 0.27, 0.1]),
        ("decreasing", 4, [0.01, 0.27, 0.09, 0.03, 0.01, 0.01, 0.1]),
        ("decreasing", 3, [0.01, 0.27, 0.09, 0.03, 0.03, 0.1]),
        ("uniform", 4, [0.2] * 7),
    ],
)
def test_ratios_are_aligned_at_the_deep_end(init: Any, count: int, expected: list[float]) -> None:
    assert list(BCU(init=init).ratios(*staged(count)).values()) == expected


def test_a_tenth_stage_is_not_the_first() -> None:
    assert list(BCU().ratios(*staged(10)).values())[10] == 0.27


def test_ratios_can_be_scaled_to_an_overall_share() -> None:
    found = BCU(init="decreasing", overall=0.2).ratios(*staged(4))
    assert sum(found.values()) / len(found) == pytest.approx(0.2)
    assert found["stage1.weight"] == pytest.approx(27 * found["stage4.weight"])
    assert scaled([0.27, 0.01], [1, 9], 0.55) == pytest.approx([1.0, 0.5])
    assert scaled([0.0, 0.5], [1, 1], 0.9) == [0.0, 1.0]


def test_the_student_learns_the_teacher_s_answers() -> None:
    net, images = trained(), pictures(60)
    start = defended(settings(epochs=0, stages=(0.5,)), net, 60).model
    end = defended(settings(epochs=20, stages=(0.5,), lr=0.05), net, 60).model
    with torch.no_grad():
        goal = net(to_float(images.images))
        apart = [
            float(distillation(model(to_float(images.images)), goal, 1.0)) for model in (start, end)
        ]
        right = float((end(to_float(images.images)).argmax(1) == images.labels).float().mean())
    assert apart[1] < 0.5 * apart[0]
    assert right > 0.9


@pytest.mark.parametrize("fields", [{"labels": "hard"}, {"temperature": 1.0}, {"init": "uniform"}])
def test_every_variant_repeats_and_differs_from_the_plain_one(fields: dict[str, Any]) -> None:
    net = trained(epochs=2)
    first, again, plain = (
        torch.cat(
            [
                weight.detach().flatten()
                for weight in defended(settings(**chosen), net).model.parameters()
            ]
        )
        for chosen in (fields, fields, {})
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, plain)


def test_no_label_is_seen() -> None:
    with pytest.raises(Undeclared, match="clean-unlabelled"):
        settings().defend(access_to(trained(epochs=1)))
    assert BCU.needs == NEEDS


def test_presets_are_valid_and_every_parameter_has_a_meaning() -> None:
    for preset in BCU.presets.values():
        BCU.model_validate_json(json.dumps(preset))
    assert all(field.description for field in BCU.model_fields.values())
