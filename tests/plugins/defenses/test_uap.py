from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import Access as AnyAccess
from harness.access.granted import Access
from harness.learn.hooks import Batch
from harness.learn.images import to_float
from plugins.defenses.uap import UAP, Universal
from tests.kit.learned import Tiny, access_to, pictures
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")


class Linear(nn.Module):
    def __init__(self, weight: Any, bias: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(weight))
        self.bias = nn.Parameter(torch.as_tensor(bias))

    def forward(self, images: Tensor) -> Tensor:
        return functional.linear(images.flatten(1), self.weight, self.bias)


def universal(shape: tuple[int, ...], eps: float, step: float) -> Universal:
    access = SimpleNamespace(
        task=SimpleNamespace(image_shape=shape), device="cpu", tick=lambda images: None
    )
    return Universal(cast(AnyAccess, access), eps, step)


def batch(images: Tensor, labels: Tensor) -> Batch:
    return Batch(images, labels, torch.arange(len(images)), 0, 0)


@pytest.mark.oracle
def test_a_step_moves_weights_and_perturbation_as_recorded() -> None:
    recorded = oracle("defenses/uat_step")
    close: dict[str, Any] = {
        "rtol": float(recorded["tol_rtol"]),
        "atol": float(recorded["tol_atol"]),
    }
    net = Linear(recorded["in_W"], recorded["in_b"])
    both = universal(
        recorded["in_delta"].shape, float(recorded["par_eps"]), float(recorded["par_delta_step"])
    )
    with torch.no_grad():
        both.perturbation.copy_(torch.from_numpy(recorded["in_delta"]))
    seen = batch(torch.from_numpy(recorded["in_x"]), torch.from_numpy(recorded["in_y"]))
    loss = both.loss(net, seen)
    np.testing.assert_allclose(float(loss.detach()), recorded["out_loss"], **close)
    loss.backward()
    assert net.weight.grad is not None
    np.testing.assert_allclose(net.weight.grad, recorded["out_grad_W"], **close)
    torch.optim.SGD(net.parameters(), lr=float(recorded["par_lr"])).step()
    both.after_step(seen)
    np.testing.assert_allclose(net.weight.detach(), recorded["out_W_next"], **close)
    np.testing.assert_allclose(both.perturbation.detach()[0], recorded["out_delta_next"], **close)
    assert both.perturbation.grad is None


def restated(net: Linear, images: Tensor, labels: Tensor, steps: int, alternate: bool) -> Any:
    """Of a linear network the slopes are those of (p - onehot), by hand, in double precision."""
    weight, bias = net.weight.detach().double().numpy(), net.bias.detach().double().numpy()
    x, moved = images.flatten(1).double().numpy(), np.zeros(images[0].numel())
    onehot = np.eye(len(bias))[labels.numpy()]

    def excess() -> Any:
        logits = (x + moved) @ weight.T + bias
        chance = np.exp(logits - logits.max(1, keepdims=True))
        return (chance / chance.sum(1, keepdims=True) - onehot) / len(x)

    for _ in range(steps):
        up = np.clip(moved + 0.02 * np.sign((excess() @ weight).sum(0)), -0.05, 0.05)
        if alternate:
            moved = up
        slope_w, slope_b = excess().T @ (x + moved), excess().sum(0)
        weight, bias, moved = weight - 0.1 * slope_w, bias - 0.1 * slope_b, up
    return weight, moved


@pytest.mark.parametrize("alternate", [False, True])
def test_the_formula_restated(alternate: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    net = Linear(torch.randn(3, 32, generator=draw), torch.randn(3, generator=draw))
    images = torch.rand(5, 2, 4, 4, generator=draw)
    labels = torch.randint(0, 3, (5,), generator=draw)
    weight, moved = restated(net, images, labels, 4, alternate)
    both = universal((2, 4, 4), 0.05, 0.02)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)
    seen = batch(images, labels)
    for _ in range(4):
        loss = both.after_a_pass(net, seen) if alternate else both.loss(net, seen)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        both.after_step(seen)
    np.testing.assert_allclose(net.weight.detach(), weight, atol=1e-5)
    np.testing.assert_allclose(both.perturbation.detach().flatten(), moved, atol=1e-6)


def training(norms: bool) -> Access:
    model = Tiny(norms=norms)
    return access_to(model.build(Tiny.task), model=model, needs=UAP.needs, training=pictures(90))


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("alternate", [False, True])
def test_it_trains_within_the_bound(norms: bool, alternate: bool) -> None:
    access = training(norms)
    result = UAP(eps=8.0, step=3.0, alternate=alternate).defend(access)
    assert result.model is not None
    assert not result.model.training
    assert 0 < result.record["perturbation"] <= 8.0
    assert access.images_processed == 90 * (2 if alternate else 1)
    with torch.no_grad():
        assert torch.isfinite(result.model(to_float(pictures().images))).all()


def test_presets_are_those_of_deck() -> None:
    made = {
        name: UAP.model_validate_json(json.dumps({**UAP.presets["deck"], **preset}))
        for name, preset in UAP.presets.items()
    }
    assert made["deck"].eps == 4.0
    assert made["deck/svhn"].eps == pytest.approx(0.05 * 255)
    assert made["deck/gtsrb"].eps == pytest.approx(0.03 * 255)
    assert all(field.description for field in UAP.model_fields.values())
