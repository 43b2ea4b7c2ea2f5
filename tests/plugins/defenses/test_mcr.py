from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from harness import Incompatible, Undeclared
from harness.access.granted import Access
from harness.learn.images import ImageSet, to_float
from harness.learn.recipes import Recipe
from plugins.defenses.ft import FT
from plugins.defenses.mcr import MCR, Curve, bernstein, decay, flat_then_falling
from plugins.models.small_cnn import SmallCNN
from plugins.parts.batchnorm import refresh
from tests.kit.learned import CLEAN, Tiny, access_to, backdoored, judged, pictures, trained
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")

AVERAGES = ("running_mean", "running_var", "num_batches_tracked")


def settings(**fields: Any) -> MCR:
    return MCR(**{"epochs": 2, "batch": 16, "epoch_images": 0, **fields})


def other(net: nn.Module, model: Tiny | None = None) -> nn.Module:
    """Another end: the network trained on."""
    access = access_to(net, model=model)
    return FT(epochs=3, batch=16, lr=0.05).defend(access)


def access(net: nn.Module, end: nn.Module, **more: Any) -> Access:
    return access_to(net, parts={"end": lambda: copy.deepcopy(end)}, **more)


def same(a: nn.Module, b: nn.Module, but: tuple[str, ...] = ()) -> bool:
    state, others = a.state_dict(), b.state_dict()
    return all(
        torch.equal(state[name], others[name]) for name in state if not name.endswith(but or "\0")
    )


class Net(nn.Module):
    """The recorded network: a convolution, BatchNorm, ReLU, mean over space, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.b = nn.BatchNorm2d(4)
        self.f = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.f(self.b(self.c(images)).relu().mean((2, 3)))
        return logits


def recorded_net(recorded: dict[str, np.ndarray], prefix: str, suffix: str = "") -> Net:
    net = Net()
    state = {
        name: recorded.get(f"{prefix}{name.replace('.', '_')}{suffix}") for name in net.state_dict()
    }
    net.load_state_dict(
        {name: torch.from_numpy(value) for name, value in state.items() if value is not None},
        strict=False,
    )
    return net


@pytest.mark.oracle
def test_the_curve_is_the_official_one() -> None:
    recorded = oracle("defenses/mcr_bezier")
    close: dict[str, Any] = {
        "rtol": float(recorded["tol_rtol"]),
        "atol": float(recorded["tol_atol"]),
    }
    np.testing.assert_allclose(
        [bernstein(t) for t in recorded["par_ts"].tolist()], recorded["out_bezier"], **close
    )
    curve = Curve(recorded_net(recorded, "in_end0_"), recorded_net(recorded, "in_end1_"))
    for name, bend in zip(curve.names, curve.bend, strict=True):
        expected = recorded[f"out_init_linear_{name.replace('.', '_')}_1"]
        np.testing.assert_allclose(bend.detach(), expected, **close)
        bend.data = torch.from_numpy(recorded[f"in_bend_{name.replace('.', '_')}_1"])
    t, x, y = (
        float(recorded["par_t"]),
        torch.from_numpy(recorded["in_x"]),
        torch.from_numpy(recorded["in_y"]),
    )
    weights = curve.weights(t)
    for name, weight in weights.items():
        layer, kind = name.split(".")
        np.testing.assert_allclose(weight.detach(), recorded[f"out_w03_{layer}_{kind[0]}"], **close)
    logits = torch.func.functional_call(curve.net.train(), weights, (x,))
    shrinking = decay(weights, float(recorded["par_wd"]))
    loss = functional.cross_entropy(logits, y) + shrinking
    loss.backward()
    np.testing.assert_allclose(logits.detach(), recorded["out_train_logits"], **close)
    np.testing.assert_allclose(loss.detach(), recorded["out_train_loss"], **close)
    np.testing.assert_allclose(shrinking.detach(), recorded["out_l2_term"], **close)
    for name, bend in zip(curve.names, curve.bend, strict=True):
        np.testing.assert_allclose(
            bend.grad, recorded[f"out_gbend_{name.replace('.', '_')}_1"], **close
        )
    assert all(parameter.grad is None for parameter in (*curve.net.parameters(), *curve.end))
    check_averages(curve.network(t), recorded, close)


def check_averages(net: nn.Module, recorded: dict[str, np.ndarray], close: dict[str, Any]) -> None:
    """The recorded batches are no uint8 images, so they go past `refresh`'s conversion."""
    batches = [torch.from_numpy(recorded[f"in_bn{n}"]) for n in range(3)]
    images = torch.arange(19, dtype=torch.uint8).view(-1, 1, 1, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "plugins.parts.batchnorm.to_float",
            lambda part: torch.cat(batches)[part.flatten().long()],
        )
        access = access_to(net)
        refresh(access, net, ImageSet(images), 8)
    assert (
        access.images_processed == 6
    )  # 19 seen forward, three of which cost as much as one seen both ways
    np.testing.assert_allclose(
        net.get_buffer("b.running_mean"), recorded["out_running_mean"], **close
    )
    np.testing.assert_allclose(
        net.get_buffer("b.running_var"), recorded["out_running_var"], **close
    )
    logits = net(torch.from_numpy(recorded["in_x"])).detach()
    np.testing.assert_allclose(logits, recorded["out_eval_logits"], **close)


@pytest.mark.oracle
def test_the_schedule_is_the_official_one() -> None:
    recorded = oracle("defenses/lr_schedules")
    recipe = MCR(lr=float(recorded["par_mcr_lr0"])).tuning(access_to(Tiny().build(Tiny.task)))
    found = [recipe.lr_at(7 * epoch, 7) for epoch in range(100)]
    close: dict[str, Any] = {
        "rtol": float(recorded["tol_rtol"]),
        "atol": float(recorded["tol_atol"]),
    }
    np.testing.assert_allclose(found, recorded["out_mcr_epoch1_100"], **close)
    cosine = FT(epochs=10, horizon=100.0).tuning(access_to(Tiny().build(Tiny.task)))
    found = [cosine.lr_at(3 * epoch, 3) for epoch in range(10)]
    np.testing.assert_allclose(found, recorded["out_bcu_cosine_epoch0_99"][:10], **close)


def test_the_schedule_restated() -> None:
    """Flat, then a straight line, then flat; by the end of each epoch, whatever the length."""
    for epochs, expected in [
        (10, [1, 1, 1, 1, 1, 0.7525, 0.505, 0.2575, 0.01, 0.01]),
        (1, [0.01]),
        (2, [1, 0.01]),
    ]:
        rates = flat_then_falling(0.2, epochs)
        assert [rate for _, rate in rates] == pytest.approx([0.2 * share for share in expected])
        assert [epoch for epoch, _ in rates] == list(range(epochs))
    plain = MCR().augmentation(Tiny.task)
    assert MCR(epochs=0)._recipe(Recipe(), plain).rates == ((0.0, pytest.approx(1e-4)),)
    assert MCR(epochs=10, horizon=100.0)._recipe(Recipe(), plain).lr_at(9, 1) == 0.01
    assert MCR(schedule="cosine")._recipe(Recipe(), plain).schedule == "cosine"
    own = MCR(rates=((0.0, 0.1), (4.0, 0.3)))._recipe(Recipe(), plain)
    assert (own.schedule, own.lr_at(2, 1)) == ("piecewise", pytest.approx(0.2))


# --- the curve ------------------------------------------------------------------------------------


@given(t=st.floats(0, 1), seed=st.integers(0, 1000), norms=st.booleans())
@effort(max_examples=10, deadline=None)
def test_the_curve_restated_number_by_number(t: float, seed: int, norms: bool) -> None:
    torch.manual_seed(seed)
    first, last, middle = (Tiny(norms=norms).build(Tiny.task) for _ in range(3))
    curve = Curve(first, last)
    for start, end, bend in zip(first.parameters(), last.parameters(), curve.bend, strict=True):
        torch.testing.assert_close(bend, 0.5 * start + 0.5 * end)
    straight = curve.network(t)
    for start, end, found in zip(
        first.parameters(), last.parameters(), straight.parameters(), strict=True
    ):
        torch.testing.assert_close(found, torch.lerp(start, end, t), rtol=1e-4, atol=1e-6)
    for bend, wanted in zip(curve.bend, middle.parameters(), strict=True):
        bend.data = wanted.data
    squares = 0.0
    all_of = zip(
        first.parameters(),
        middle.parameters(),
        last.parameters(),
        curve.network(t).parameters(),
        strict=True,
    )
    for start, bend, end, found in all_of:
        # de Casteljau: a line between points on two lines
        expected = torch.lerp(torch.lerp(start, bend, t), torch.lerp(bend, end, t), t)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        squares += float((expected.detach().double() ** 2).sum())
    assert float(decay(curve.weights(t), 0.3).detach()) == pytest.approx(0.15 * squares, rel=1e-4)


def test_what_decays_is_the_network_and_what_learns_is_the_bend() -> None:
    """A step restated: the gradient at a t, times how much of the bend is there; no other parameter
    moves.
    """
    net = trained(epochs=2)
    end = other(net)
    bench = access(net, end, data=pictures(16))
    t = float(torch.rand((), generator=bench.generator("t")))
    result = settings(
        epochs=1,
        lr=0.1,
        rates=((0.0, 0.1),),
        momentum=0.0,
        weight_decay=0.3,
        t=0.5,
        bn="none",
        crop=0,
        flip=False,
    ).defend(bench)
    curve = Curve(net, end)
    at = curve.network(t).train()
    images = ImageSet(pictures(16).images, pictures(16).labels)
    loss = functional.cross_entropy(at(to_float(images.images)), images.labels)
    loss = loss + 0.15 * sum(weight.square().sum() for weight in at.parameters())
    gradients = torch.autograd.grad(loss, list(at.parameters()))
    ends = zip(
        net.parameters(),
        curve.bend,
        end.parameters(),
        gradients,
        result.model.parameters(),
        strict=True,
    )
    for first, middle, last, gradient, found in ends:
        bend = middle - 0.1 * 2 * t * (1 - t) * gradient
        torch.testing.assert_close(
            found, 0.25 * first + 0.5 * bend + 0.25 * last, rtol=1e-4, atol=1e-5
        )
    for name, value in at.state_dict().items():
        if name.endswith(AVERAGES):
            torch.testing.assert_close(result.model.state_dict()[name], value)


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_the_ends_are_the_ends_with_their_own_averages(t: float, norms: bool) -> None:
    model = Tiny(norms=norms)
    net = trained(model, epochs=3)
    end = other(net, model)
    result = settings(t=t).defend(access(net, end, model=model))
    expected = copy.deepcopy(net if t == 0 else end)
    refresh(access_to(net), expected, pictures(), 16)
    assert same(result.model, expected)
    assert result.record == {"t": t}
    if norms:
        assert not same(expected, net if t == 0 else end)


def test_averages_come_from_where_they_should() -> None:
    net = trained(epochs=3)
    end, training = other(net), pictures(45)
    needs = MCR(bn="train").grants()
    clean, none, train = (
        settings(bn=bn).defend(access(net, end, needs=needs, training=training)).model
        for bn in ("clean", "none", "train")
    )
    assert same(clean, none, AVERAGES)
    assert same(clean, train, AVERAGES)
    for found, data in ((clean, pictures()), (train, training)):
        expected = copy.deepcopy(none)
        refresh(access_to(net), expected, data, 16)
        assert same(found, expected)
        assert not same(found, none)
    for source in (net, end):
        assert not torch.equal(
            none.get_buffer("stem.1.running_mean"), source.get_buffer("stem.1.running_mean")
        )


def test_the_training_set_is_a_leak_and_says_so() -> None:
    assert MCR().grants() == MCR(bn="none").grants() == CLEAN
    assert MCR(bn="train").grants() == CLEAN | {"training-set", "oracle"}
    net = trained(epochs=1)
    with pytest.raises(Undeclared, match="training-set"):
        settings(bn="train").defend(access(net, net))


# --- choosing t -----------------------------------------------------------------------------------


def test_the_best_t_is_that_of_the_images_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    net = trained(epochs=2)
    end, seen = other(net), []
    scores = {0.1: 0.5, 0.4: 0.8, 0.6: 0.8, 0.9: 0.7}

    def score(access: Any, model: nn.Module, held: ImageSet) -> float:
        seen.append((model, held))
        return list(scores.values())[len(seen) - 1]

    monkeypatch.setattr("plugins.defenses.mcr.accuracy", score)
    bench = access(net, end, data=pictures(40))
    result = settings(t="best", candidates=(0.9, 0.1, 0.6, 0.4), holdout=0.25).defend(bench)
    assert result.record == {"t": 0.6, "held_out_acc": 0.8}
    assert result.model is seen[2][0]
    assert [len(held) for _, held in seen] == [10] * 4
    assert (
        bench.images_processed == 2 * 30 + 4 * 10
    )  # four times the averages of 30 images, seen forward only


def test_the_victim_and_the_end_are_no_candidates() -> None:
    assert MCR().candidates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert isinstance(MCR.model_validate_json('{"t": 0}').t, float)
    for wrong in ('{"t": 1.1}', '{"t": "worst"}', '{"candidates": []}', '{"candidates": [2]}'):
        with pytest.raises(ValueError, match=r"t|candidates"):
            MCR.model_validate_json(wrong)


@pytest.mark.parametrize(
    ("wanted", "images"), [(0, 30), (100, 90), (10, 30), (45, 60), (44, 30), (300, 300)]
)
def test_an_epoch_repeats_the_images_to_its_length(wanted: int, images: int) -> None:
    net = Tiny().build(Tiny.task)
    bench = access(net, net)
    settings(epochs=1, epoch_images=wanted, bn="none").defend(bench)
    assert bench.images_processed == images


# --- averages -------------------------------------------------------------------------------------


def drooping(dropout: float) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Dropout(dropout), nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2), nn.Flatten()
    )


@given(
    counts=st.lists(st.integers(2, 9), min_size=1, max_size=4), dropout=st.sampled_from([0.0, 0.5])
)
@effort(max_examples=10, deadline=None)
def test_averages_restated(counts: list[int], dropout: float) -> None:
    """Means over batches, weighted by size, of means and of variances divided by one less."""
    size, last = max(counts), min(counts)
    data = pictures(size * (len(counts) - 1) + last)
    net = drooping(dropout).train()
    net[2].momentum = 0.25
    refresh(access_to(net), net, data, size)
    means, variances, weights = [], [], []
    for part in torch.split(data.images, size):
        weight = net[1].weight.detach().numpy().reshape(2)
        values = part.numpy().reshape(-1, 1).astype(np.float64) / 255 * weight
        means.append(values.mean(0))
        variances.append(values.var(0, ddof=1))
        weights.append(len(part))
    np.testing.assert_allclose(
        net[2].running_mean, np.average(means, axis=0, weights=weights), rtol=1e-4
    )
    np.testing.assert_allclose(
        net[2].running_var, np.average(variances, axis=0, weights=weights), rtol=1e-4
    )
    assert net[2].momentum == 0.25
    assert all(part.training for part in net.modules())


def test_modes_and_momenta_come_back_after_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise KeyError("no output")

    net = nn.Sequential(nn.BatchNorm2d(1, momentum=0.3), Broken()).eval()
    with pytest.raises(KeyError, match="no output"):
        refresh(access_to(net), net, pictures())
    assert net[0].momentum == 0.3
    assert not net[0].training


def test_one_image_left_over_is_no_batch() -> None:
    """BatchNorm over vectors has no variance of one."""
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64))
    refresh(access_to(net), net, pictures(9), 4)
    flat = to_float(pictures(9).images).flatten(1)
    expected = (4 * flat[:4].mean(0) + 5 * flat[4:].mean(0)) / 9
    torch.testing.assert_close(net[1].running_mean, expected)


def test_without_averages_there_is_nothing_to_refresh() -> None:
    nets = [
        Tiny(norms=False).build(Tiny.task),
        nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)),
    ]
    for net in nets:
        before = copy.deepcopy(net)
        refresh(access_to(net), net, pictures())
        assert same(net, before)


# --- all of it ------------------------------------------------------------------------------------


def test_ends_of_two_architectures_are_incompatible() -> None:
    net = Tiny().build(Tiny.task)
    with pytest.raises(Incompatible, match="another `end`"):
        settings().defend(access(net, Tiny(hidden=5).build(Tiny.task)))


def test_the_process_and_the_ends_are_left_as_found_and_runs_repeat() -> None:
    net = trained(epochs=2)
    end, state = other(net), torch.random.get_rng_state()
    first, again = (settings(t=0.4).defend(access(net, end)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(first.model, again.model)
    assert not any(part.training for part in first.model.modules())
    assert all(parameter.requires_grad for parameter in first.model.parameters())
    assert same(end, other(net))


@pytest.mark.parametrize("bn", ["clean", "none"])
def test_the_backdoor_goes_somewhere_along_the_curve(bn: Any) -> None:
    model = SmallCNN(width=8)
    net, data = backdoored(model), pictures(90)
    end = FT(epochs=10, lr=0.05, batch=16).defend(access_to(net, data, model))
    bench = access(net, end, data=data, model=model)
    after = judged(
        MCR(epochs=8, lr=0.05, batch=16, epoch_images=0, t=0.6, bn=bn).defend(bench).model
    )
    assert min(judged(net)) > 0.9
    assert after[0] > 0.9
    assert after[1] < 0.3


def test_presets_are_valid_and_every_parameter_has_a_meaning() -> None:
    for preset in MCR.presets.values():
        MCR.model_validate_json(json.dumps(preset))
    assert all(field.description for field in MCR.model_fields.values())
    assert MCR.model_validate(MCR.presets["bcu"]).grants() == CLEAN
    assert "oracle" in MCR.model_validate(MCR.presets["mcr-released"]).grants()
