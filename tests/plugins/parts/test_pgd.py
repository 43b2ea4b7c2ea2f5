from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from harness.access.granted import PartAccess
from harness.learn.hooks import Batch
from harness.learn.images import to_float
from plugins.parts.pgd import AdversarialTraining, pgd
from tests.kit.learned import pictures, stage_context, trained
from tests.kit.oracles import oracle


class Linear(nn.Module):
    """Logits W (x - mean) / std + b of flattened images."""

    def __init__(self, weight: Any, bias: Any, mean: Any = 0.0, std: Any = 1.0) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.as_tensor(part)) for part in (weight, bias))
        self.mean, self.std = (torch.as_tensor(part).view(1, -1, 1, 1) for part in (mean, std))

    def forward(self, images: Tensor) -> Tensor:
        return functional.linear(
            ((images - self.mean) / self.std).flatten(1), self.weight, self.bias
        )


def case(seed: int = 0) -> tuple[Linear, Tensor, Tensor]:
    """A network, images and labels."""
    draw = torch.Generator().manual_seed(seed)
    net = Linear(torch.randn(3, 2 * 4 * 4, generator=draw), torch.randn(3, generator=draw))
    return net, torch.rand(5, 2, 4, 4, generator=draw), torch.randint(0, 3, (5,), generator=draw)


@pytest.fixture
def net(known: nn.Module) -> nn.Module:
    """A network that knows the pictures, in evaluation mode."""
    return copy.deepcopy(known)


@pytest.fixture(scope="module")
def known() -> nn.Module:
    return trained()


def losses(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return functional.cross_entropy(model(images), labels, reduction="none")


@pytest.mark.oracle
def test_moves_as_the_official_code_does() -> None:
    recorded = oracle("defenses/pgd_linf")
    given = {name[3:]: value for name, value in recorded.items() if name.startswith("in_")}
    eps, step, steps = (recorded[f"par_{name}"].item() for name in ("eps", "alpha", "iters"))
    net = Linear(given["W"], given["b"], given["mean"], given["std"])
    images, labels, drawn = (torch.from_numpy(given[name]) for name in ("x", "y", "u"))
    found = pgd(net, images, labels, eps=eps, step=step, steps=steps, drawn=drawn)
    close: dict[str, Any] = {
        "rtol": float(recorded["tol_rtol"]),
        "atol": float(recorded["tol_atol"]),
    }
    np.testing.assert_allclose(found, recorded["out_adv"], **close)
    np.testing.assert_allclose((found - images).abs().max(), recorded["out_linf"], **close)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("random_start", [False, True])
def test_the_formula_restated_pixel_by_pixel(random_start: bool, targeted: bool) -> None:
    """The gradient of cross-entropy over a linear network is W^T (p - onehot)."""
    net, images, labels = case()
    drawn = (
        torch.rand(images.shape, generator=torch.Generator().manual_seed(1))
        if random_start
        else None
    )
    eps, step, steps = 0.1, 0.03, 6
    found = pgd(
        net, images, labels, eps=eps, step=step, steps=steps, drawn=drawn, targeted=targeted
    )
    weight, bias = net.weight.detach().double().numpy(), net.bias.detach().double().numpy()
    for picture in range(len(images)):
        start = images[picture].double().numpy().ravel()
        moved = start.copy()
        if drawn is not None:
            moved = np.clip(start - eps + 2 * eps * drawn[picture].double().numpy().ravel(), 0, 1)
        for _ in range(steps):
            logits = weight @ moved + bias
            chance = np.exp(logits) / np.exp(logits).sum()
            chance[labels[picture]] -= 1
            slope = weight.T @ chance
            moved = moved + (-step if targeted else step) * np.sign(slope)
            moved = np.minimum(
                np.maximum(moved, np.maximum(start - eps, 0)), np.minimum(start + eps, 1)
            )
        np.testing.assert_allclose(found[picture].numpy().ravel(), moved, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    eps=st.floats(0.0, 0.5),
    step=st.floats(1e-3, 0.6),
    steps=st.integers(0, 4),
    seed=st.integers(0, 99),
    random_start=st.booleans(),
    targeted=st.booleans(),
)
def test_images_stay_in_the_ball_and_in_range(
    eps: float, step: float, steps: int, seed: int, random_start: bool, targeted: bool
) -> None:
    net, images, labels = case(seed)
    drawn = (
        torch.rand(images.shape, generator=torch.Generator().manual_seed(seed))
        if random_start
        else None
    )
    kept = images.clone()
    found = pgd(
        net, images, labels, eps=eps, step=step, steps=steps, drawn=drawn, targeted=targeted
    )
    assert found.shape == images.shape
    assert float((found - images).abs().max()) <= eps + 1e-6
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert torch.equal(images, kept)
    assert not found.requires_grad


def test_the_loss_rises_or_falls_towards_a_target() -> None:
    net, images, labels = case()
    plain = losses(net, images, labels)
    size: dict[str, Any] = {"eps": 0.1, "step": 0.02, "steps": 10}
    assert (losses(net, pgd(net, images, labels, **size), labels) > plain).all()
    assert (losses(net, pgd(net, images, labels, targeted=True, **size), labels) < plain).all()


def test_nothing_is_left_behind(net: nn.Module) -> None:
    """No gradients, no modes, no running statistics, no draws from the global generator, whatever
    the caller is in.
    """
    data = pictures(12)
    images = to_float(data.images)
    state, before = copy.deepcopy(net.state_dict()), torch.random.get_rng_state()
    with torch.no_grad():
        pgd(net, images, data.labels, eps=0.1, step=0.05, steps=3)
        assert not torch.is_grad_enabled()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert not any(part.training for part in net.modules())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_no_image_depends_on_the_others(net: nn.Module) -> None:
    data = pictures(12)
    images, size = to_float(data.images), {"eps": 0.1, "step": 0.05, "steps": 3}
    whole = pgd(net, images, data.labels, **size)
    alone = [pgd(net, images[n : n + 1], data.labels[n : n + 1], **size) for n in range(12)]
    torch.testing.assert_close(whole, torch.cat(alone))


# --- training -------------------------------------------------------------------------------------


class Trainer(AdversarialTraining):
    """The settings alone."""


def access() -> PartAccess:
    return PartAccess(stage_context(stage="part"), frozenset(), {})


def perturbed(trainer: Trainer, net: nn.Module, at: PartAccess | None = None) -> Batch:
    data = pictures(12)
    batch = Batch(to_float(data.images), data.labels, torch.arange(12), 0, 0)
    return trainer.perturbing(at or access(), net)(batch)


def test_batches_are_perturbed_in_grey_levels(net: nn.Module) -> None:
    data = pictures(12)
    found = perturbed(
        Trainer(eps=20.0, step=7.0, steps=2, random_start=False, statistics="running"), net
    )
    expected = pgd(net, to_float(data.images), data.labels, eps=20 / 255, step=7 / 255, steps=2)
    torch.testing.assert_close(found.images, expected)
    assert torch.equal(found.labels, data.labels)
    assert torch.equal(found.indices, torch.arange(12))


def test_starts_repeat_and_differ_between_batches(net: nn.Module) -> None:
    trainer = Trainer(statistics="running", steps=1, step=0.001)
    first = perturbed(trainer, net).images
    torch.testing.assert_close(first, perturbed(trainer, net).images, rtol=0, atol=0)
    data = pictures(12)
    hook = trainer.perturbing(access(), net)
    batch = Batch(to_float(data.images), data.labels, torch.arange(12), 0, 0)
    one, two = hook(batch).images, hook(batch).images
    assert float((one - two).abs().max()) > 4 / 255
    assert float((one - batch.images).abs().max()) <= 8 / 255 + 1e-6


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_which_statistics_the_network_uses_and_moves(net: nn.Module, statistics: Any) -> None:
    net.train()
    before = copy.deepcopy(net.state_dict())
    perturbed(Trainer(statistics=statistics, steps=2), net)
    assert all(part.training for part in net.modules())
    moved = {
        name for name, value in net.state_dict().items() if not torch.equal(value, before[name])
    }
    wanted = (
        {name for name in before if "running" in name or "tracked" in name}
        if statistics == "batch"
        else set()
    )
    assert moved == wanted


def test_every_step_is_counted_and_the_precision_is_the_recipes(net: nn.Module) -> None:
    at = access()
    perturbed(Trainer(steps=3), net, at)
    assert at.images_processed == 36
    seen = []
    net.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    around = replace(at._context, recipe=at.recipe.replace(precision="bf16"))
    found = perturbed(Trainer(steps=1), net, PartAccess(around, frozenset(), {}))
    assert seen == [torch.bfloat16]
    assert found.images.dtype == torch.float32


@pytest.mark.parametrize(
    "wrong", [{"eps": 0.0}, {"eps": 256.0}, {"step": 0.0}, {"steps": 0}, {"statistics": "none"}]
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Trainer(**wrong)


def test_every_parameter_has_a_meaning() -> None:
    assert all(field.description for field in AdversarialTraining.model_fields.values())
