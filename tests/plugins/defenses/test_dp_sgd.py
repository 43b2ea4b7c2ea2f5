from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.access.granted import Access
from harness.components import Model
from harness.extras import MissingExtra
from harness.learn.evaluation import predict
from harness.learn.hooks import Batch
from harness.learn.images import ImageSet, to_float
from harness.learn.layers import NORMS
from harness.learn.recipes import Recipe
from plugins.defenses.dp_sgd import DPSGD, Opacus, Private, norms_of, poisson
from plugins.models.small_cnn import SmallCNN
from tests.kit.learned import Tiny, pictures, stage_context, stamped
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(epochs=2, batch=16, lr=0.1, precision="fp32")


def training(
    data: ImageSet, recipe: Recipe = RECIPE, model: Model | None = None, replicate: int = 0
) -> Access:
    around = stage_context(model)
    at = replace(around.coordinates, replicate=replicate)
    return Access(
        replace(around, recipe=recipe, coordinates=at), DPSGD.needs, {"training-set": lambda: data}
    )


def quiet(like: Tensor) -> Tensor:
    """Normal draws of a private gradient whose noise is to be left out of a comparison."""
    return torch.zeros_like(like)


@pytest.mark.oracle
def test_a_step_is_the_recorded_one() -> None:
    recorded = oracle("defenses/dpsgd_step")
    close: dict[str, Any] = {
        "rtol": float(recorded["tol_rtol"]),
        "atol": float(recorded["tol_atol"]),
    }
    given = {
        name: torch.from_numpy(recorded[f"in_{name}"])
        for name in ("W", "b", "x", "y", "unit_noise_W")
    }
    normals = [given["unit_noise_W"], torch.from_numpy(recorded["in_unit_noise_b"])]
    net = nn.Linear(6, 3)
    net.load_state_dict({"weight": given["W"], "bias": given["b"]})
    settings = DPSGD(noise=float(recorded["par_sigma"]), clip=float(recorded["par_C"]), at_once=3)
    private = Private(
        settings,
        settings.noise,
        float(recorded["par_expected_batch"]),
        normal=lambda _: normals.pop(0),
    )
    batch = Batch(given["x"], given["y"].long(), torch.arange(8), 0, 0)
    private.loss(net, batch).backward()
    np.testing.assert_allclose(net.weight.grad, recorded["out_grad_W"], **close)
    np.testing.assert_allclose(net.bias.grad, recorded["out_grad_b"], **close)
    torch.optim.SGD(net.parameters(), lr=float(recorded["par_lr"])).step()
    np.testing.assert_allclose(net.weight.detach(), recorded["out_W_next"], **close)
    np.testing.assert_allclose(net.bias.detach(), recorded["out_b_next"], **close)
    assert private.clipped == np.mean(recorded["out_norms"] > recorded["par_C"])


@pytest.mark.parametrize("at_once", [1, 5, 64])
@pytest.mark.parametrize("norms", [True, False])
def test_a_private_gradient_restated(norms: bool, at_once: int) -> None:
    """Image by image, in double precision, with the batch's expected size below."""
    torch.manual_seed(0)
    net = DPSGD(groups=4).rebuild(Tiny(norms=norms).build(Tiny.task)).double().train()
    images, labels = torch.rand(12, 1, 8, 8).double(), torch.arange(12) % 3
    units = {name: torch.randn_like(part) for name, part in net.named_parameters()}
    drawn = iter(units.values())
    losses, parts = [], []
    for image, label in zip(images, labels, strict=True):
        loss = functional.cross_entropy(net(image[None]), label[None], label_smoothing=0.1)
        parts.append(torch.autograd.grad(loss, list(net.parameters())))
        losses.append(loss.item())
    norms = [math.sqrt(sum(float((part**2).sum()) for part in own)) for own in parts]
    clip = sorted(norms)[5] * 1.001
    private = Private(
        DPSGD(clip=clip, at_once=at_once), 1.5, 16.0, 0.1, normal=lambda _: next(drawn)
    )
    found, value = private.gradient(net, images, labels)
    assert private.clipped == 0.5
    assert value.item() == pytest.approx(np.mean(losses), rel=1e-5)
    for place, (name, unit) in enumerate(units.items()):
        total = sum(
            own[place] * min(1.0, clip / norm) for own, norm in zip(parts, norms, strict=True)
        )
        torch.testing.assert_close(
            found[name], (total + 1.5 * clip * unit) / 16, atol=1e-5, rtol=1e-4
        )


def test_the_norm_is_one_over_all_parameters() -> None:
    parts = {
        "a": torch.tensor([[3.0, 0.0], [0.0, 0.0]]),
        "b": torch.tensor([4.0, 2.0]),
        "c": torch.zeros(2, 1, 2),
    }
    assert norms_of(parts).tolist() == [5.0, 2.0]


def test_the_loss_is_the_batchs_and_its_gradient_the_private_one() -> None:
    """Weight decay and the like are the optimiser's business: it gets the gradient as any other."""
    torch.manual_seed(0)
    net = Tiny(norms=False).build(Tiny.task)
    batch = Batch(torch.rand(6, 1, 8, 8), torch.arange(6) % 3, torch.arange(6), 0, 0)
    whole = Private(DPSGD(clip=1e6), 0.0, 6.0, normal=quiet)
    value = whole.loss(net, batch)
    value.backward()
    mean = functional.cross_entropy(net(batch.images), batch.labels)
    expected = torch.autograd.grad(mean, list(net.parameters()))
    torch.testing.assert_close(value, mean)
    for parameter, part in zip(net.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, part, atol=1e-6, rtol=1e-5)


def test_a_step_without_images_is_noise() -> None:
    net = Tiny(norms=False).build(Tiny.task)
    private = Private(DPSGD(clip=2.0), 3.0, 4.0, normal=torch.ones_like)
    value = private.loss(
        net, Batch(torch.zeros(0, 1, 8, 8), torch.zeros(0).long(), torch.zeros(0).long(), 0, 0)
    )
    value.backward()
    assert value.item() == 0.0
    assert private.clipped == 0.0
    assert all(bool((part.grad == 1.5).all()) for part in net.parameters() if part.grad is not None)


def test_images_drop_out_apart_and_stay_unmixed() -> None:
    """Two equal images have different gradients under dropout, and the same without."""
    norms = []
    for share in (0.0, 0.5):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Dropout(share), nn.Linear(64, 3)).train()
        private = Private(DPSGD(clip=1e-3, at_once=2), 0.0, 1.0, normal=quiet)
        images = torch.rand(1, 1, 8, 8).expand(2, -1, -1, -1)
        one = private.gradient(net, images, torch.zeros(2).long())[0]
        # Clipped gradients of length 0.001 add up to 0.002 only where they point the same way.
        norms.append(float(norms_of({name: part[None] for name, part in one.items()})))
    assert norms[0] == pytest.approx(2e-3, rel=1e-3)
    assert norms[1] < 1.99e-3


def test_a_network_that_cannot_take_images_together_takes_them_one_by_one() -> None:
    """A layer that draws in place, as torchvision's stochastic depth does, is beyond `vmap`."""

    class Drawing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images * torch.empty(len(images), 1).bernoulli_(1.0)

    torch.manual_seed(0)
    linear, images, labels = nn.Linear(4, 3), torch.rand(5, 4), torch.arange(5) % 3
    found = []
    for net in (nn.Sequential(Drawing(), linear), nn.Sequential(nn.Identity(), linear)):
        private = Private(DPSGD(clip=0.3), 0.0, 5.0, normal=quiet)
        gradient, value = private.gradient(net, images, labels)
        found.append((*gradient.values(), value, torch.tensor(private.clipped)))
        assert private.together is not isinstance(net[0], Drawing)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_sampling_is_poisson_and_repeats() -> None:
    def draws() -> list[list[int]]:
        generator = torch.Generator().manual_seed(3)
        return list(Opacus("rdp", 1e-5).draws(200, 0.1, 400, generator))

    drawn = draws()
    assert drawn == draws()
    sizes = np.array([len(one) for one in drawn])
    assert abs(sizes.mean() - 20) < 1
    assert 0.7 < sizes.var() / (200 * 0.1 * 0.9) < 1.3
    often = np.bincount(np.concatenate(drawn), minlength=200)
    assert 20 < often.min() < often.max() < 62
    assert all(len(set(one)) == len(one) for one in drawn)


def test_drawn_images_take_the_place_of_those_offered() -> None:
    data = pictures(9)
    swap = poisson(data, iter([[8, 2], []]))
    offered = Batch(to_float(data.images[:4]), data.labels[:4], torch.arange(4), 1, 5)
    got, nothing = swap(offered), swap(offered)
    assert torch.equal(got.images, to_float(data.images[[8, 2]]))
    assert got.labels is not None
    assert data.labels is not None
    assert got.labels.tolist() == data.labels[[8, 2]].tolist()
    assert (got.indices.tolist(), got.epoch, got.step) == ([8, 2], 1, 5)
    assert nothing.images.shape == (0, 1, 8, 8)


def test_epsilon_restated_where_every_image_is_in_every_step() -> None:
    """Without sampling the Renyi divergence of order a is a T / (2 sigma^2); the conversion is that
    of Balle et al.
    """
    noise, steps, delta = 4.0, 10, 1e-5
    orders = [1 + step / 10 for step in range(1, 100)] + list(range(12, 64))
    bounds = [
        a * steps / (2 * noise**2)
        + math.log((a - 1) / a)
        - (math.log(delta) + math.log(a)) / (a - 1)
        for a in orders
    ]
    assert Opacus("rdp", delta).epsilon(noise, 1.0, steps) == pytest.approx(min(bounds), rel=1e-6)


def test_epsilon_falls_with_noise_and_rises_with_steps() -> None:
    opacus = Opacus("rdp", 1e-5)
    assert (
        opacus.epsilon(0.5, 0.1, 50)
        > opacus.epsilon(1.0, 0.1, 50)
        > opacus.epsilon(1.0, 0.1, 25)
        > 0
    )
    assert opacus.epsilon(0.0, 0.1, 50) == math.inf
    assert opacus.epsilon(1.0, 0.1, 0) == 0
    assert Opacus("prv", 1e-5).epsilon(1.0, 0.1, 50) < opacus.epsilon(1.0, 0.1, 50)


def test_noise_is_found_for_an_epsilon() -> None:
    opacus = Opacus("rdp", 1e-5)
    noise = opacus.noise(3.0, 0.1, 50)
    assert 2.98 <= opacus.epsilon(noise, 0.1, 50) <= 3.0
    result = DPSGD(epsilon=3.0, batch=3).defend(training(pictures(30), RECIPE.replace(epochs=5)))
    assert result.record["noise"] == noise
    assert 2.98 <= result.record["epsilon"] <= 3.0


def test_it_trains_a_network_of_the_rebuilt_structure_and_repeats() -> None:
    data = pictures(60)
    access = training(data, RECIPE.replace(crop=1, flip=True))
    result = DPSGD(noise=0.5).defend(access)
    assert result.model is not None
    assert not any(isinstance(layer, NORMS) for layer in result.model.modules())
    assert set(result.record) == {"noise", "clipped", "epsilon"}
    assert 60 < access.images_processed < 180, "120 are expected"
    loaded = DPSGD().rebuild(Tiny().build(Tiny.task))
    loaded.load_state_dict(result.model.state_dict())
    images = to_float(data.images)
    torch.testing.assert_close(loaded.eval()(images), result.model(images))
    again = DPSGD(noise=0.5).defend(training(data, RECIPE.replace(crop=1, flip=True))).model
    other = (
        DPSGD(noise=0.5)
        .defend(training(data, RECIPE.replace(crop=1, flip=True), replicate=1))
        .model
    )
    states = [
        torch.cat([part.flatten() for part in net.state_dict().values()])
        for net in (result.model, again, other)
    ]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def banded(count: int) -> ImageSet:
    """Three classes by where a bright band is: GroupNorm takes the brightness of an image itself
    away.
    """
    draw = torch.Generator().manual_seed(count)
    labels, images = (
        torch.arange(count) % 3,
        torch.randint(0, 120, (count, 8, 8, 1), generator=draw),
    )
    for label in range(3):
        images[labels == label, :, 2 * label : 2 * label + 2] += 100
    return ImageSet(images.to(torch.uint8), labels)


def test_mild_noise_keeps_classes_and_backdoor_and_strong_noise_costs_accuracy() -> None:
    """As Trap-and-Replace found: what would take the backdoor away costs the accuracy first."""
    data, test = banded(300), banded(150)
    chosen = torch.arange(1, 300, 3)[:20]
    assert data.labels is not None
    assert test.labels is not None
    images, labels = data.images.clone(), data.labels.clone()
    images[chosen], labels[chosen] = stamped(data.subset(chosen)), 0
    recipe = Recipe(
        epochs=16, batch=50, lr=0.1, weight_decay=0.0, schedule="cosine", precision="fp32"
    )
    right = {}
    for noise in (0.5, 3.0):
        model = (
            DPSGD(noise=noise, crop=0, flip=False)
            .defend(training(ImageSet(images, labels), recipe, SmallCNN(width=8)))
            .model
        )
        assert model is not None
        right[noise] = float((predict(model, test.images)[0] == test.labels).float().mean())
        if noise == 0.5:
            fooled = predict(model, stamped(test))[0][test.labels != 0] == 0
            assert float(fooled.float().mean()) > 0.3
    assert right[0.5] > 0.9
    assert right[3.0] < 0.8


def test_fields_go_over_the_recipe() -> None:
    grid = Recipe(epochs=10, batch=128, lr=0.1, schedule="table", rates=((0.0, 0.1), (5.0, 0.01)))
    assert DPSGD().recipe(grid, 1000) == grid
    longer = DPSGD(epochs=20, lr=0.5, batch=500, weight_decay=0.0, optimizer="adam").recipe(
        grid, 1000
    )
    assert longer.rates == ((0.0, 0.1), (10.0, 0.01))
    assert (longer.epochs, longer.lr, longer.batch, longer.weight_decay, longer.optimizer) == (
        20,
        0.5,
        500,
        0.0,
        "adam",
    )
    assert DPSGD(schedule="cosine").recipe(grid, 1000) == grid.replace(schedule="cosine", rates=())


def test_without_opacus_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(
        MissingExtra, match=r"opacus is not installed: pip install 'doorbench\[dp\]'"
    ):
        DPSGD().defend(training(pictures(30)))


def test_presets_are_valid_and_every_parameter_has_a_meaning() -> None:
    for preset in DPSGD.presets.values():
        DPSGD.model_validate_json(json.dumps(preset))
    assert all(field.description for field in DPSGD.model_fields.values())
