from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from harness import Context, Result, Task, Undeclared
from harness.access.granted import Access
from harness.learn.evaluation import predict
from harness.learn.images import ImageSet
from plugins.defenses.abl import ABL, bounded, exact_losses, image_losses
from plugins.models.small_cnn import SmallCNN
from tests.kit.learned import Tiny, access_to, pictures, stamped
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")

NEEDS = frozenset({"training-set"})


def poisoned(count: int = 200, every: int = 10, spread: int = 0) -> ImageSet:
    """Pictures of three classes, some of them (every tenth) stamped and called class 0."""
    data = pictures(count, spread)
    assert data.labels is not None
    mask = torch.arange(count) % every == 0
    images = torch.where(mask.view(-1, 1, 1, 1), stamped(data), data.images)
    return ImageSet(images, torch.where(mask, 0, data.labels))


def granted(data: ImageSet, norms: bool = True) -> Access:
    return access_to(nn.Identity(), model=Tiny(norms=norms), needs=NEEDS, training=data)


def settings(**fields: Any) -> ABL:
    quick = {
        "isolation_epochs": 2,
        "epochs": 2,
        "unlearn_epochs": 1,
        "batch": 16,
        "isolate": 0.05,
        "cutout": 0,
    }
    return ABL(**{**quick, **fields})


@pytest.mark.oracle
def test_objectives_as_the_official_code_has_them() -> None:
    recorded = oracle("defenses/abl_lga")
    gamma = float(recorded["par_gamma"])
    for name, objective in (("lga", "lga"), ("flood", "flooding")):
        found = [
            float(bounded(torch.tensor([loss]), objective, "batch", gamma))
            for loss in recorded["in_batch_losses"]
        ]
        np.testing.assert_allclose(found, recorded[f"out_{name}"], rtol=1e-6)
    losses = torch.from_numpy(recorded["out_per_sample_loss"])
    for per, name in (("image", "sample"), ("batch", "batch")):
        expected = float(
            recorded[f"out_lga_per_{name}_variant" if per == "image" else "out_lga_batch_variant"]
        )
        assert float(bounded(losses, "lga", per, gamma)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize(("objective", "name"), [("lga", "LGA"), ("flooding", "Flooding")])
def test_two_steps_of_the_official_code(objective: str, name: str) -> None:
    recorded = oracle("defenses/abl_lga")
    net = nn.Linear(6, 5)
    with torch.no_grad():
        net.weight.copy_(torch.from_numpy(recorded["in_W"]))
        net.bias.copy_(torch.from_numpy(recorded["in_b"]))
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    for batch in "01":
        answers = net(torch.from_numpy(recorded[f"in_x{batch}"]))
        losses = functional.cross_entropy(
            answers, torch.from_numpy(recorded[f"in_y{batch}"]), reduction="none"
        )
        sgd.zero_grad()
        bounded(losses, objective, "batch", 0.5).backward()  # type: ignore[no-untyped-call]
        sgd.step()
    close: dict[str, Any] = {
        "rtol": float(recorded["tol_rtol"]),
        "atol": float(recorded["tol_atol"]),
    }
    np.testing.assert_allclose(net.weight.detach(), recorded[f"out_{name}_w"], **close)
    np.testing.assert_allclose(net.bias.detach(), recorded[f"out_{name}_b"], **close)


@pytest.mark.oracle
def test_the_rates_of_the_second_phase_are_the_official_ones() -> None:
    recorded = oracle("defenses/lr_schedules")["out_abl_finetune_epoch0_69"]
    recipe = ABL().tuning(granted(poisoned()))
    np.testing.assert_allclose([recipe.lr_at(epoch, 1) for epoch in range(70)], recorded)


@given(
    losses=st.lists(st.floats(0, 9, width=32), min_size=1, max_size=9),
    objective=st.sampled_from(["lga", "flooding"]),
    per=st.sampled_from(["image", "batch"]),
    gamma=st.sampled_from([0.0, 0.5, 2.0]),
)
def test_the_objectives_restated(
    losses: list[float], objective: str, per: str, gamma: float
) -> None:
    whole = losses if per == "image" else [sum(losses) / len(losses)]
    total = 0.0
    for loss in whole:
        if objective == "lga":
            total += loss if loss > gamma else -loss if loss < gamma else 0.0
        else:
            total += abs(loss - gamma) + gamma
    if all(
        abs(loss - gamma) > 1e-6 for loss in whole
    ):  # rounding may decide the sign of a mean at gamma
        assert float(bounded(torch.tensor(losses), objective, per, gamma)) == pytest.approx(
            total / len(whole), abs=1e-5
        )


def test_below_the_bound_the_objective_climbs() -> None:
    for objective in ("lga", "flooding"):
        for value, slope in ((0.2, -1.0), (0.7, 1.0)):
            loss = torch.tensor([value], requires_grad=True)
            bounded(loss, objective, "batch", 0.5).backward()  # type: ignore[no-untyped-call]
            assert loss.grad is not None
            assert float(loss.grad) == slope


@pytest.mark.oracle
def test_images_are_ranked_as_by_the_official_code() -> None:
    """But for the three whose losses are so small that its order is chance."""
    recorded = oracle("defenses/abl_lga")
    inputs = torch.from_numpy(np.concatenate([recorded["in_x0"], recorded["in_x1"]]))
    labels = torch.from_numpy(np.concatenate([recorded["in_y0"], recorded["in_y1"]]))
    logits = inputs @ torch.from_numpy(recorded["in_W"]).T + torch.from_numpy(recorded["in_b"])
    losses = exact_losses(logits, labels)
    np.testing.assert_allclose(losses, recorded["out_per_sample_loss"], rtol=1e-4, atol=1e-6)
    order, expected = losses.argsort().tolist(), recorded["out_isolation_order"].tolist()
    assert (set(order[:3]), order[3:]) == (set(expected[:3]), expected[3:])


def test_losses_are_ranked_where_single_precision_sees_none() -> None:
    """Margins of 40 and 60 both have a cross-entropy of 0 in single precision."""
    data = pictures(3)
    margins = iter([torch.tensor([[40.0, 0, 0], [0, 60.0, 0], [0, 0, 1.0]])])

    class Sure(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return next(margins)

    access = granted(data)
    found = image_losses(access, Sure(), data)
    expected = [2 * math.exp(-40), 2 * math.exp(-60), math.log(1 + 2 * math.exp(-1))]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert access.images_processed == 1  # a third of three images: no backward pass


def test_poison_is_isolated_and_unlearned() -> None:
    """Classes that overlap, or they are learned as soon as the trigger."""
    model = SmallCNN(width=8)
    data, test = poisoned(400, 7, spread=160), pictures(150, 160)
    assert test.labels is not None
    shares = []
    for epochs in (0, 5):
        access = access_to(nn.Identity(), model=model, needs=NEEDS, training=data)
        quick = settings(
            isolation_epochs=4,
            epochs=8,
            rates=((0.0, 0.05), (6.0, 0.01)),
            batch=32,
            crop=0,
            flip=False,  # bands are not what they were
        )
        result = quick.model_copy(update={"unlearn_epochs": epochs, "unlearn_lr": 0.002}).defend(
            access
        )
        assert isinstance(result.model, nn.Module)
        assert len(result.suspects) == 20
        assert np.mean([index % 7 == 0 for index in result.suspects]) > 0.9
        assert result.record["isolated_in_one_class"] == 1
        clean, fooled = (
            predict(result.model, images)[0] for images in (test.images, stamped(test))
        )
        right, success = clean == test.labels, (fooled == 0)[test.labels != 0]
        shares.append((float(right.float().mean()), float(success.float().mean())))
    assert shares[0][1] > 0.5
    assert shares[1][1] < 0.3
    assert shares[1][0] > shares[0][0] - 0.15


def defended(data: ImageSet, **fields: Any) -> Result:
    return settings(**fields).defend(granted(data))


def test_the_suspects_are_those_of_lowest_loss_after_the_first_phase() -> None:
    data, defense = poisoned(), settings(epochs=0, unlearn_epochs=0)
    result = defense.defend(granted(data))
    assert result.model is not None
    losses = image_losses(granted(data), result.model, data)
    assert list(result.suspects) == losses.argsort(stable=True)[:10].tolist()
    assert result.record["isolated"] == 10
    assert result.record["isolated_loss"] == pytest.approx(float(losses.sort().values[:10].mean()))


def test_the_last_phase_raises_the_loss_of_the_suspects_alone() -> None:
    data = poisoned()
    trained = [defended(data, unlearn_epochs=epochs, unlearn_lr=0.005) for epochs in (0, 3)]
    assert trained[0].suspects == trained[1].suspects
    suspects = data.subset(torch.tensor(trained[0].suspects))
    losses = []
    for result in trained:
        assert result.model is not None
        losses.append(float(image_losses(granted(data), result.model, suspects).mean()))
    assert losses[1] > losses[0]


def test_only_the_second_phase_augments_and_only_the_first_keeps_the_order() -> None:
    access, defense = granted(poisoned()), ABL(crop=2, flip=True)
    first, second, third = (
        defense.isolating(access),
        defense.tuning(access),
        defense.unlearning(access),
    )
    assert [(one.crop, one.flip, one.cutout) for one in (first, second, third)] == [
        (0, False, 0),
        (2, True, 2),
        (0, False, 0),
    ]
    assert [one.shuffle for one in (first, second, third)] == [False, True, True]
    assert [one.epochs for one in (first, second, third)] == [20, 60, 20]
    assert (first.lr_at(19, 1), third.lr_at(19, 1)) == (0.1, 5e-4)
    assert all(
        (one.nesterov, one.weight_decay, one.batch) == (True, 1e-4, 64)
        for one in (first, second, third)
    )


def test_images_are_counted() -> None:
    access = granted(poisoned())
    settings().defend(access)
    assert access.images_processed == 2 * 200 + 200 // 3 + 2 * 190 + 10


def test_flooding_moves_weights_as_ascent_does() -> None:
    """The two objectives differ by a constant on either side of the bound."""
    for per in ("image", "batch"):
        slopes = []
        for objective in ("lga", "flooding"):
            losses = torch.tensor([0.1, 0.2, 0.6, 2.0], requires_grad=True)
            slopes.append(torch.autograd.grad(bounded(losses, objective, per, 0.8), losses)[0])
        assert torch.equal(slopes[0], slopes[1])


@pytest.mark.parametrize("fields", [{"gamma": 0.0}, {"per": "image"}, {"isolation_shuffle": True}])
def test_every_variant_repeats_and_differs_from_the_plain_one(fields: dict[str, Any]) -> None:
    first, again, plain = (
        defended(poisoned(), **{"gamma": 0.9, **chosen}) for chosen in (fields, fields, {})
    )
    weights = []
    for result in (first, again, plain):
        assert result.model is not None
        weights.append(torch.cat([one.flatten() for one in result.model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert first.suspects == again.suspects
    assert not torch.equal(weights[0], weights[2])


def test_a_network_without_batchnorm_does_as_well() -> None:
    result = settings().defend(granted(poisoned(), norms=False))
    assert len(result.suspects) == 10


def test_no_clean_image_is_seen_and_no_victim() -> None:
    assert ABL.needs == NEEDS
    with pytest.raises(Undeclared, match="training-set"):
        settings().defend(access_to(nn.Identity()))


def test_isolating_nothing_is_incompatible() -> None:
    task = Task("few", 3, 8, 8, 1, 60)
    assert "none of them" in str(ABL(isolate=0.01).compatible(Context(task)))
    assert ABL(isolate=0.05).compatible(Context(task)) is None


def test_presets_are_valid_and_every_parameter_has_a_meaning() -> None:
    for preset in ABL.presets.values():
        ABL.model_validate_json(json.dumps(preset))
    assert all(field.description for field in ABL.model_fields.values())


def test_the_toolbox_s_presets() -> None:
    """The released code has batches of 128, BackdoorBench 256 in an order of its own."""
    code, bench = (ABL(**ABL.presets[name]) for name in ("abl-code", "backdoorbench"))
    assert (code.batch, code.isolation_shuffle, code.isolation_epochs) == (128, False, 10)
    assert (bench.batch, bench.isolation_shuffle, bench.isolation_epochs) == (256, True, 20)
    assert ABL().batch == 64
    access = granted(poisoned())
    assert [one.isolating(access).shuffle for one in (code, bench)] == [False, True]
