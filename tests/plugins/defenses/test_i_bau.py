from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from harness import Incompatible, Model, Task
from harness.access.granted import Access
from harness.learn.images import ImageSet, to_float
from harness.learn.training import Diverged
from plugins.defenses.i_bau import IBAU, Loss, carrying, conjugate_gradients, hypergradient
from plugins.models.mnist_nets import FC5
from plugins.models.nin import NiN
from plugins.models.small_cnn import SmallCNN
from plugins.models.smallvgg import SmallVGG
from tests.kit.learned import (
    CLEAN,
    Tiny,
    access_to,
    backdoored,
    judged,
    pictures,
    stage_context,
    trained,
)
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")

Solver = Literal["fixed-point", "conjugate-gradient"]
Quadratic = dict[str, Tensor]


def settings(**fields: Any) -> IBAU:
    return IBAU(**{"rounds": 1, "batch": 10, "portion": 0.1, **fields})


# --- the hypergradient ----------------------------------------------------------------------------


def solved(q: Quadratic, terms: int, solver: Solver = "fixed-point", step: float = 0.1) -> Tensor:
    """The hypergradient of: inner d.A.d / 2 + d.B.t, outer |d - c|^2 / 2 + t.C.t + d.D.t."""
    theta = q["theta"].clone().requires_grad_()

    def inner(d: Tensor) -> Tensor:
        d = d.flatten()
        return d @ q["A"] @ d / 2 + d @ q["B"] @ theta

    def outer(d: Tensor) -> Tensor:
        d = d.flatten()
        return (d - q["c"]).square().sum() / 2 + theta @ q["C"] @ theta + d @ q["D"] @ theta

    return hypergradient(outer, inner, q["delta"], [theta], step, terms, solver)[0]


@pytest.mark.oracle
def test_hypergradients_are_those_of_the_official_code() -> None:
    recorded = oracle("defenses/ibau_hypergrad")
    close: dict[str, Any] = {
        "rtol": float(recorded["tol_rtol"]),
        "atol": float(recorded["tol_atol"]),
    }
    q = {
        name[3:]: torch.from_numpy(array)
        for name, array in recorded.items()
        if name.startswith("in_")
    }
    step = float(recorded["par_step"])
    for terms in (1, 2, 5, 50, 2000):
        np.testing.assert_allclose(
            solved(q, terms, step=step), recorded[f"out_hyper_K{terms}"], **close
        )
    np.testing.assert_allclose(solved(q, 0, step=step), recorded["out_dout_dtheta"], **close)
    np.testing.assert_allclose(
        solved(q, 4, "conjugate-gradient", step), recorded["out_exact_limit"], **close
    )


def quadratic(seed: int, size: int = 4, weights: int = 3) -> Quadratic:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    root = draw(size, size)
    inner = {
        "A": root @ root.T / size + 0.5 * torch.eye(size, dtype=torch.float64),
        "B": draw(size, weights),
    }
    outer = {"c": draw(size), "C": draw(weights, weights), "D": draw(size, weights)}
    return {**inner, **outer, "delta": draw(1, size), "theta": draw(weights)}


@given(seed=st.integers(0, 10_000), terms=st.integers(0, 6))
@effort(max_examples=10, deadline=None)
def test_the_neumann_series_restated_with_matrices(seed: int, terms: int) -> None:
    q = quadratic(seed)
    a, b, c, big, d = (q[name].numpy() for name in "ABcCD")
    delta, theta = q["delta"].numpy()[0], q["theta"].numpy()
    jacobian = np.eye(4) - 0.1 * a
    to_delta = delta - c + d @ theta
    series = sum(
        (np.linalg.matrix_power(jacobian, k).T @ to_delta for k in range(terms)), np.zeros(4)
    )
    expected = (big + big.T) @ theta + d.T @ delta + (-0.1 * b).T @ series
    np.testing.assert_allclose(solved(q, terms), expected, rtol=1e-9, atol=1e-11)


@given(seed=st.integers(0, 10_000))
@effort(max_examples=10, deadline=None)
def test_the_exact_hypergradient_is_the_slope_of_what_the_weights_lead_to(seed: int) -> None:
    """By finite differences of the outer loss at the inner minimum, which the weights move."""
    q = quadratic(seed)
    a, b, c, big, d = (q[name].numpy() for name in "ABcCD")

    def reached(theta: np.ndarray) -> float:
        delta = -np.linalg.solve(a, b @ theta)
        return float(((delta - c) ** 2).sum() / 2 + theta @ big @ theta + delta @ d @ theta)

    theta = q["theta"].numpy()
    steps = np.eye(3) * 1e-5
    expected = [(reached(theta + step) - reached(theta - step)) / 2e-5 for step in steps]
    q["delta"] = torch.from_numpy(-np.linalg.solve(a, b @ theta))[None]
    np.testing.assert_allclose(solved(q, 8, "conjugate-gradient"), expected, rtol=1e-5, atol=1e-6)


def test_bcu_s_rates_are_the_released_ones_on_normalised_inputs() -> None:
    """The same step and the same hypergradient, with the perturbation before and behind a division
    by 0.25.
    """
    released, bcu = IBAU(), IBAU(**IBAU.presets["bcu"])
    net, std = Tiny(hidden=5).build(Tiny.task).double().eval(), 0.25
    images, labels = to_float(pictures(6).images).double(), pictures(6).labels
    weights, generator = list(net.parameters()), torch.Generator().manual_seed(0)

    def losses(penalty: float, scale: float) -> tuple[Loss, Loss]:
        def fooled(d: Tensor, carriers: int) -> Tensor:
            shown = torch.cat([images[:carriers] / std + d / scale, images[carriers:] / std])
            return functional.cross_entropy(net(shown), labels)

        return (lambda d: penalty * d.square().sum() - fooled(d, 6)), (lambda d: fooled(d, 1))

    answers = []
    for rates, scale in ((released, 1.0), (bcu, std)):
        inner, outer = losses(rates.penalty, scale)
        d = (
            scale * torch.randn(1, 8, 8, generator=generator.manual_seed(0), dtype=torch.float64)
        ).requires_grad_()
        stepped = d - rates.inner_lr * torch.autograd.grad(inner(d), d)[0]
        found = hypergradient(outer, inner, d, weights, rates.step, rates.terms, rates.solver)
        answers.append([stepped / scale, *found])
    for behind, before in zip(*answers, strict=True):
        torch.testing.assert_close(before, behind)
    assert IBAU(**IBAU.presets["bcu"] | IBAU.presets["bcu/gtsrb"]).inner_lr == released.inner_lr


def test_a_network_s_hypergradient_restated_with_whole_jacobians() -> None:
    net = Tiny(hidden=5).build(Tiny.task).double().eval()
    images, labels = to_float(pictures(6).images).double(), pictures(6).labels
    weights, generator = list(net.parameters()), torch.Generator().manual_seed(0)
    d = torch.randn(1, 8, 8, generator=generator, dtype=torch.float64)

    def inner(d: Tensor) -> Tensor:
        return 0.5 * d.square().sum() - functional.cross_entropy(net(images + d), labels)

    def outer(d: Tensor) -> Tensor:
        return functional.cross_entropy(net(torch.cat([images[:1] + d, images[1:]])), labels)

    found = hypergradient(outer, inner, d, weights, 0.3, 3, "fixed-point")
    hessian = torch.autograd.functional.hessian(inner, d).reshape(64, 64)
    at = d.clone().requires_grad_()
    slope = torch.autograd.grad(inner(at), at, create_graph=True)[0].flatten()
    direct = torch.autograd.grad(outer(at), [at, *weights])
    jacobian = torch.eye(64, dtype=torch.float64) - 0.3 * hessian
    v = sum(torch.linalg.matrix_power(jacobian, k).T @ direct[0].flatten() for k in range(3))
    for place, weight in enumerate(weights):
        rows = [
            torch.autograd.grad(part, weight, retain_graph=True, allow_unused=True)[0]
            for part in slope
        ]
        mixed = sum(
            (-0.3 * row * factor for row, factor in zip(rows, v, strict=True) if row is not None),
            0 * weight,
        )
        torch.testing.assert_close(found[place], (direct[1 + place] + mixed).detach())


@given(seed=st.integers(0, 10_000))
@effort(max_examples=10, deadline=None)
def test_conjugate_gradients_solve_in_as_many_steps_as_there_are_dimensions(seed: int) -> None:
    q = quadratic(seed)
    expected = torch.linalg.solve(q["A"], q["c"])
    torch.testing.assert_close(conjugate_gradients(lambda v: q["A"] @ v, q["c"], 4), expected)
    torch.testing.assert_close(conjugate_gradients(lambda v: -q["A"] @ v, q["c"], 9), -expected)


def test_conjugate_gradients_stop_where_nothing_can_be_solved() -> None:
    zero, wanted = torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(conjugate_gradients(lambda v: v, zero, 5), zero)
    assert torch.equal(conjugate_gradients(lambda v: 0 * v, wanted, 5), zero)
    flat = torch.tensor([1.0, -1.0])
    assert conjugate_gradients(lambda v: v * flat, torch.ones(2), 5).isfinite().all()


# --- a round --------------------------------------------------------------------------------------


class Watched(IBAU):
    """Keeps the perturbations."""

    seen: ClassVar[list[Tensor]] = []

    def _perturbation(self, *given: Any) -> Tensor:
        found = super()._perturbation(*given)
        self.seen.append(found.clone())
        return found


def climbed(net: nn.Module, lr: float, clamp: bool = False) -> Tensor:
    """The pass of the inner problem written out: plain gradient descent on its loss, batch by
    batch.
    """
    d = torch.zeros(1, 8, 8)
    for images, _ in pictures(30).batches(10):
        at = d.clone().requires_grad_()
        answers = net(images).argmax(1)
        shown = images + at
        logits = net(shown.clamp(0, 1) if clamp else shown)
        chosen = functional.log_softmax(logits, 1)[torch.arange(10), answers]
        d = d - lr * (torch.autograd.grad(chosen.mean(), at)[0] + 2e-3 * d)
    return d


@pytest.mark.parametrize("norms", [True, False])
def test_a_round_restated(norms: bool) -> None:
    """One step of plain descent a batch, along the gradient with the perturbation on one image of
    ten.
    """
    model = Tiny(norms=norms)
    net = trained(model, epochs=2)
    watched = Watched(
        rounds=1, batch=10, portion=0.1, terms=0, outer="sgd", outer_lr=0.05, inner_lr=2.0
    )
    watched.seen.clear()
    access = access_to(net, model=model)
    result = watched.defend(access)
    [d] = watched.seen
    torch.testing.assert_close(d, climbed(copy.deepcopy(net), 2.0), rtol=1e-4, atol=1e-5)
    assert result.record == {"perturbation_norm": pytest.approx(float(d.norm()))}
    expected, draws = copy.deepcopy(net), access_to(net, model=model).generator("patches")
    for images, labels in pictures(30).batches(10):
        carrier = int(torch.randperm(10, generator=draws)[0])
        images[carrier] += d
        loss = functional.cross_entropy(expected(images), labels)
        gradients = torch.autograd.grad(loss, list(expected.parameters()))
        for weight, gradient in zip(expected.parameters(), gradients, strict=True):
            weight.data -= 0.05 * gradient
    for ours, theirs in zip(result.model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_inner_map_sees_the_first_batch_with_its_true_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[Any, ...]] = []

    def record(
        outer: Any, inner: Callable[[Tensor], Tensor], d: Tensor, weights: Any, *rest: Any
    ) -> Any:
        seen.append((float(inner(d).detach()), *rest))
        return hypergradient(outer, inner, d, weights, *rest)

    monkeypatch.setattr("plugins.defenses.i_bau.hypergradient", record)
    net = trained(epochs=2)
    Watched.seen.clear()
    Watched(rounds=1, batch=10, portion=0.1, step=0.2, terms=3, outer_lr=1e-12).defend(
        access_to(net)
    )
    [d] = Watched.seen
    images, labels = next(pictures(30).batches(10))
    with torch.no_grad():
        expected = 1e-3 * float(d.square().sum()) - float(
            functional.cross_entropy(net(images + d), labels)
        )
    assert len(seen) == 3
    for value, *rest in seen:
        assert value == pytest.approx(expected, rel=1e-4)
        assert rest == [0.2, 3, "fixed-point"]


def test_variants_of_the_inner_pass() -> None:
    net = trained(epochs=2)

    def found(**fields: Any) -> Tensor:
        Watched.seen.clear()
        Watched(**{"rounds": 1, "batch": 10, "portion": 0.1, "terms": 0, **fields}).defend(
            access_to(net)
        )
        return Watched.seen[0]

    plain = found()
    assert float(found(bound=0.5).norm()) == pytest.approx(0.5)
    torch.testing.assert_close(found(bound=1e6), plain)
    torch.testing.assert_close(
        found(clamp=True), climbed(copy.deepcopy(net), 10.0, True), rtol=1e-4, atol=1e-5
    )
    adam = found(inner="adam", inner_lr=0.01)
    assert 0.005 < float(adam.abs().max()) <= 0.0301
    assert not torch.equal(found(shuffle=True), plain)
    assert float(found(penalty=0.04).norm()) < float(plain.norm())


def test_terms_and_solver_move_the_weights() -> None:
    net = trained(epochs=2)
    ends = [
        torch.cat(
            [
                weight.detach().flatten()
                for weight in settings(**fields).defend(access_to(net)).model.parameters()
            ]
        )
        for fields in (
            {},
            {},
            {"terms": 0},
            {"terms": 1},
            {"solver": "conjugate-gradient"},
            {"step": 0.5},
        )
    ]
    assert torch.equal(ends[0], ends[1])
    for other in ends[2:]:
        assert not torch.equal(ends[0], other)


def test_only_weights_move_and_the_process_is_left_as_found() -> None:
    net = trained(epochs=2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    flags = (
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
    )
    state = torch.random.get_rng_state()
    with torch.no_grad():
        result = settings(rounds=2).defend(access_to(net))
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert flags == (
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
    )
    after = result.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == dict(net.named_parameters()).keys()
    assert not any(part.training for part in result.model.modules())
    assert all(weight.grad is None for weight in result.model.parameters())


def test_no_rounds_leave_the_victim() -> None:
    net = trained(epochs=1)
    result = settings(rounds=0).defend(access_to(net))
    assert result.record == {"perturbation_norm": 0.0}
    assert all(
        torch.equal(a, b) for a, b in zip(result.model.parameters(), net.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("fields", "images"),
    [
        ({"terms": 0}, 30 + 30),
        ({"terms": 3}, 30 + 30 + 3 * (1 + 3) * 10),
        ({"terms": 3, "solver": "conjugate-gradient"}, 30 + 30 + 3 * (2 + 3) * 10),
        ({"terms": 1, "rounds": 2, "batch": 20}, 2 * (30 + 30 + 2 * 30)),
    ],
)
def test_every_pass_is_counted(fields: dict[str, Any], images: int) -> None:
    access = access_to(trained(epochs=1))
    settings(**fields).defend(access)
    assert access.images_processed == images


def test_too_few_images_to_carry_a_perturbation() -> None:
    with pytest.raises(Incompatible, match=r"0\.01 of 30 clean images is no image"):
        IBAU().defend(access_to(trained(epochs=1)))
    with pytest.raises(ValidationError, match="batch of 99 is no image"):
        IBAU(batch=99)
    assert [carrying(100, 0.29), carrying(100, 0.01), carrying(199, 0.01), carrying(99, 0.01)] == [
        29,
        1,
        1,
        0,
    ]


def test_images_left_over_join_the_last_batch() -> None:
    found = settings(batch=20)._parts(55)
    assert [len(part) for part in found] == [20, 35]
    assert torch.equal(torch.cat(found), torch.arange(55))
    assert [len(part) for part in settings(batch=20)._parts(40)] == [20, 20]
    assert [len(part) for part in settings(batch=20)._parts(11)] == [11]


def test_numbers_that_run_away_are_reported() -> None:
    with pytest.raises(Diverged, match=r"round 1 of 2; try a lower inner_lr"):
        settings(rounds=2, outer="sgd", outer_lr=1e38).defend(
            access_to(trained(Tiny(norms=False), epochs=1))
        )


class Once(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class OnceLayer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def test_a_layer_without_a_second_derivative_is_incompatible() -> None:
    net = nn.Sequential(OnceLayer(), trained(epochs=1)).eval()
    with pytest.raises(Incompatible, match="second derivative"):
        settings().defend(access_to(net))


def test_the_backdoor_goes() -> None:
    model = SmallCNN(width=8)
    net = backdoored(model)
    before = judged(net)
    # The classes differ in brightness: without a bound the worst perturbation is another class.
    result = settings(rounds=5, bound=3.0).defend(access_to(net, pictures(60), model))
    after = judged(result.model)
    assert min(before) > 0.9
    assert after[0] > 0.9
    assert after[1] < 0.2


class Attending(nn.Module):
    """Attention over rows by the function with fused kernels, which have no second derivative."""

    def forward(self, images: Tensor) -> Tensor:
        rows = images.flatten(0, 1)
        return images + functional.scaled_dot_product_attention(rows, rows, rows).view_as(images)


def test_attention_has_a_second_derivative() -> None:
    net = nn.Sequential(Attending(), trained(epochs=1)).eval()
    result = settings().defend(access_to(net))
    assert any(
        not torch.equal(a, b)
        for a, b in zip(result.model.parameters(), net.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("model", "channels"),
    [(NiN(), 3), (FC5(norm=False), 1), (SmallVGG(), 3)],
    ids=["nin", "fc5", "smallvgg"],
)
def test_nets_of_other_kinds(model: Model, channels: int) -> None:
    task = Task("noise", 3, 32, 32, channels, 30)
    torch.manual_seed(0)
    net = model.build(task).eval()
    data = ImageSet(pictures(4).images.repeat(1, 4, 4, channels), pictures(4).labels)
    files = {"victim": lambda: copy.deepcopy(net), "clean-labelled": lambda: data}
    access = Access(replace(stage_context(model), task=task), CLEAN, files)
    result = IBAU(rounds=1, batch=2, portion=0.5, terms=2).defend(access)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(result.model.parameters(), net.parameters(), strict=True)
    )


def test_presets_are_valid_and_every_parameter_has_a_meaning() -> None:
    for preset in IBAU.presets.values():
        IBAU.model_validate_json(json.dumps(preset))
    assert all(field.description for field in IBAU.model_fields.values())
    assert IBAU.needs == {"victim", "clean-labelled"}
