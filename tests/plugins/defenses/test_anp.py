from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from harness import Incompatible, Unit
from harness.learn.hooks import Batch
from plugins.defenses.anp import ANP, Masked, Noise, below, lowest, zeroed
from tests.kit.learned import Tiny, access_to, pictures, trained
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")

KNOWN = {"iterations": 12, "batch": 16}


def settings(**fields: Any) -> ANP:
    return ANP(**{**KNOWN, **fields})


@pytest.mark.oracle
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_masked_batchnorm_is_the_official_one(mode: str, noisy: bool) -> None:
    recorded = oracle("defenses/anp_batchnorm")
    close: dict[str, Any] = {
        "rtol": float(recorded["tol_rtol"]),
        "atol": float(recorded["tol_atol"]),
    }
    given = {
        name[3:]: torch.from_numpy(array)
        for name, array in recorded.items()
        if name.startswith("in_")
    }
    norm = nn.BatchNorm2d(
        4, eps=float(recorded["par_eps"]), momentum=float(recorded["par_momentum"])
    )
    norm.load_state_dict(
        {
            "weight": given["gamma"],
            "bias": given["beta"],
            "running_mean": given["running_mean"],
            "running_var": given["running_var"],
            "num_batches_tracked": torch.tensor(0),
        }
    )
    masked = Masked(nn.Sequential(norm), [Unit("0", 4)]).train(mode == "train")
    masked.masks[0].data = given["mask"]
    noise = [(given["noise_w"].requires_grad_(), given["noise_b"].requires_grad_())]
    y = masked(given["x"], noise if noisy else None)
    kind = f"{mode}_{'noisy' if noisy else 'clean'}"
    np.testing.assert_allclose(y.detach(), recorded[f"out_y_{kind}"], **close)
    ((y**2).sum() + y[:, 0].sum()).backward()
    # Gradients in train mode are sums that nearly cancel: an error of single precision of the
    # summands is allowed.
    np.testing.assert_allclose(
        masked.masks[0].grad, recorded[f"out_gmask_{kind}"], rtol=1e-5, atol=1e-4
    )
    for name, part in zip(("noise", "noisebias"), noise[0], strict=True):
        expected = recorded[f"out_g{name}_{kind}"]
        if noisy:
            np.testing.assert_allclose(part.grad, expected, rtol=1e-5, atol=1e-4)
        else:
            assert part.grad is None
            assert np.isnan(expected).all()
    np.testing.assert_allclose(norm.running_mean, recorded[f"out_rm_{kind}"], **close)
    np.testing.assert_allclose(norm.running_var, recorded[f"out_rv_{kind}"], **close)


@pytest.mark.oracle
def test_prunes_what_the_official_threshold_does() -> None:
    recorded = oracle("defenses/anp_prune")
    found = below(torch.from_numpy(recorded["in_mask"]), float(recorded["par_threshold"]))
    np.testing.assert_array_equal(found, recorded["out_pruned"])


def test_thresholds_see_four_decimals() -> None:
    masks = torch.tensor([0.2, 0.20004, 0.20006, 0.0], dtype=torch.float64)
    assert below(masks, 0.2).tolist() == [True, True, False, True]
    assert lowest(torch.tensor([0.3, 0.1, 0.1, 0.2]), 2).tolist() == [False, True, True, False]


@pytest.mark.parametrize("norms", [True, False])
def test_a_masked_network_restated(norms: bool) -> None:
    """Scaling a convolution's outputs, or the BatchNorm's scale, and perturbing both weight and
    shift.
    """
    net = Tiny(norms=norms).build(Tiny.task).eval()
    access = access_to(net, model=Tiny(norms=norms))
    units = list(access.units(net))
    generator = torch.Generator().manual_seed(0)
    masked = Masked(access.victim(), units).eval()
    noise: Noise = [tuple(torch.rand(2, unit.count, generator=generator)) for unit in units]
    expected = access.victim()
    for unit, mask, (d, e) in zip(units, masked.masks, noise, strict=True):
        mask.data = torch.rand(unit.count, generator=generator)
        layer = expected.get_submodule(unit.module)
        for channel in range(unit.count):
            layer.weight.data[channel] *= mask[channel] + d[channel]
            layer.bias.data[channel] *= 1 + e[channel]
    images = torch.rand(3, 1, 8, 8, generator=generator)
    torch.testing.assert_close(masked(images, noise), expected(images))


class Rising(ANP):
    """Keeps what the adversary sees and does."""

    seen: ClassVar[list[tuple[Batch, Noise, Noise]]] = []

    def _ascended(self, model: Masked, batch: Batch, noise: Noise) -> Noise:
        moved = super()._ascended(model, batch, noise)
        self.seen.append((batch, [(d.detach(), e.detach()) for d, e in noise], moved))
        return moved


def flat(noise: Noise) -> torch.Tensor:
    return torch.cat([part for pair in noise for part in pair])


@pytest.mark.parametrize("projected", [False, True])
def test_the_adversary_starts_at_random_and_climbs_by_eps(projected: bool) -> None:
    Rising.seen.clear()
    defense = Rising(**{**KNOWN, "iterations": 1, "projected": projected, "eps": 0.01})
    defense.defend(access_to(trained(epochs=2)))
    [(_, before, after)] = Rising.seen
    assert float(flat(before).abs().max()) <= 0.01
    if projected:
        assert float(flat(after).abs().max()) <= 0.01
    else:
        moves = (flat(after) - flat(before)).abs()
        torch.testing.assert_close(moves, torch.full_like(moves, 0.01), atol=1e-6, rtol=0)
        assert float(flat(after).abs().max()) > 0.015


def masks_after(
    defense: ANP,
    monkeypatch: pytest.MonkeyPatch,
    net: nn.Module | None = None,
    model: Tiny | None = None,
) -> list[torch.Tensor]:
    """What the masks are when training ends."""
    kept: list[torch.Tensor] = []

    def keep(
        self: ANP, access: object, masked: Masked, masks: torch.Tensor, held: object
    ) -> torch.Tensor:
        kept.append(masks)
        return torch.zeros(len(masks), dtype=torch.bool)

    monkeypatch.setattr(ANP, "_chosen", keep)
    torch.manual_seed(0)
    defense.defend(access_to(net or Tiny().build(Tiny.task), model=model))
    return kept


@pytest.mark.parametrize("norms", [True, False])
def test_a_step_restated_by_finite_differences(
    norms: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adversary goes up the loss by the sign of its slope; then the masks go down theirs by lr
    times its slope.
    """
    Rising.seen.clear()
    model = Tiny(norms=norms)
    net = trained(model, epochs=2)
    defense = Rising(**{**KNOWN, "iterations": 1, "alpha": 0.3, "lr": 1.0, "momentum": 0.0})
    masks = masks_after(defense, monkeypatch, net, model)[0]
    [(batch, before, after)] = Rising.seen
    units = list(access_to(net, model=model).units(net))
    sizes = [size for unit in units for size in (unit.count, unit.count)]

    def loss(mask: torch.Tensor, noise: torch.Tensor) -> float:
        """Cross-entropy in training mode and double precision, of a network whose weights are
        changed in place.
        """
        changed = copy.deepcopy(net).double().train()
        pairs, scales = torch.split(noise, sizes), torch.split(mask, sizes[::2])
        for place, (unit, scale) in enumerate(zip(units, scales, strict=True)):
            layer = changed.get_submodule(unit.module)
            shape = (-1, *[1] * (layer.weight.ndim - 1))
            layer.weight.data *= (scale + pairs[2 * place]).view(shape)
            layer.bias.data *= 1 + pairs[2 * place + 1]
        with torch.no_grad():
            return float(functional.cross_entropy(changed(batch.images.double()), batch.labels))

    def slope(of: Callable[[torch.Tensor], float], at: torch.Tensor) -> torch.Tensor:
        steps = torch.eye(len(at), dtype=torch.float64) * 1e-5
        return torch.tensor(
            [(of(at + step) - of(at - step)) / 2e-5 for step in steps], dtype=torch.float64
        )

    ones, start, end = torch.ones(len(masks)).double(), flat(before).double(), flat(after).double()
    rising = slope(lambda noise: loss(ones, noise), start)
    clear = (
        rising.abs() > 1e-5
    )  # a convolution's shift before BatchNorm has no slope, only rounding
    torch.testing.assert_close((end - start)[clear], 0.4 * rising[clear].sign(), atol=1e-6, rtol=0)
    falling = slope(
        lambda mask: 0.3 * loss(mask, torch.zeros_like(end)) + 0.7 * loss(mask, end), ones
    )
    torch.testing.assert_close(masks, (ones - falling).clamp(0, 1), atol=1e-5, rtol=0)
    assert int((masks < 1).sum()) > 1


class NoisyNorm(nn.Module):
    """A BatchNorm with a mask and perturbations of its own, as the released code puts in place of
    each.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm, self.noisy = norm, False
        self.mask = nn.Parameter(torch.ones(norm.num_features))
        self.d, self.e = (nn.Parameter(torch.zeros(norm.num_features)) for _ in range(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        norm = self.norm
        weight = norm.weight * (self.mask + self.d if self.noisy else self.mask)
        bias = norm.bias * (1 + self.e if self.noisy else 1)
        return functional.batch_norm(
            images, norm.running_mean, norm.running_var, weight, bias, self.training
        )


def test_a_run_restated_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two optimisers as in the released code, on the same batches and starts; momentum is carried
    from step to step.
    """
    Rising.seen.clear()
    net = trained()
    masks = masks_after(
        Rising(**{**KNOWN, "iterations": 6, "alpha": 0.3, "lr": 1.0}), monkeypatch, net
    )[0]
    restated = copy.deepcopy(net).requires_grad_(False)
    layers = [NoisyNorm(restated.get_submodule(name)) for name in ("stem.1", "stage1.1")]
    restated.get_submodule("stem")[1], restated.get_submodule("stage1")[1] = layers
    restated.train()
    outer = torch.optim.SGD([layer.mask for layer in layers], lr=1.0, momentum=0.9)
    inner = torch.optim.SGD([part for layer in layers for part in (layer.d, layer.e)], lr=0.4)
    for batch, start, _ in Rising.seen:
        for layer, (d, e) in zip(layers, start, strict=True):
            layer.d.data, layer.e.data, layer.noisy = d.clone(), e.clone(), True
        inner.zero_grad()
        (-functional.cross_entropy(restated(batch.images), batch.labels)).backward()
        for layer in layers:
            layer.d.grad.sign_()
            layer.e.grad.sign_()
        inner.step()
        outer.zero_grad()
        robust = functional.cross_entropy(restated(batch.images), batch.labels)
        for layer in layers:
            layer.noisy = False
        (
            0.3 * functional.cross_entropy(restated(batch.images), batch.labels) + 0.7 * robust
        ).backward()
        outer.step()
        for layer in layers:
            layer.mask.data.clamp_(0, 1)
    torch.testing.assert_close(masks.float(), torch.cat([layer.mask.detach() for layer in layers]))
    assert float(masks.min()) < 0.5


def test_without_perturbation_it_is_mask_fitting_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """With eps 0 both losses are one, whatever alpha is; with alpha 1 the perturbation does not
    count.
    """
    first = masks_after(settings(eps=0.0, alpha=1.0), monkeypatch)[0]
    second = masks_after(settings(eps=0.0, alpha=0.0), monkeypatch)[0]
    third = masks_after(settings(eps=0.4, alpha=1.0), monkeypatch)[0]
    torch.testing.assert_close(first, third)
    torch.testing.assert_close(first, second, atol=1e-4, rtol=0)
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1
    assert float(first.min()) < 1


def test_pruning_touches_scales_of_the_original_and_nothing_else() -> None:
    net = Tiny().build(Tiny.task)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    result = settings(prune="number", number=3).defend(access_to(net))
    assert result.record == {"pruned": 3.0, "neurons": 12.0}
    changed = {
        name: value
        for name, value in result.model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert set(changed) <= {"stem.1.weight", "stage1.1.weight"}
    assert sum(int((value == 0).sum()) for value in changed.values()) == 3


@pytest.mark.parametrize(("component", "neurons"), [("all", 22), ("conv", 12), ("fc", 10)])
def test_components_of_a_net_without_batchnorm(component: Any, neurons: int) -> None:
    model = Tiny(norms=False, hidden=10)
    net = model.build(Tiny.task)
    result = settings(component=component, prune="number", number=4).defend(
        access_to(net, model=model)
    )
    assert result.record == {"pruned": 4.0, "neurons": float(neurons)}
    silent = {
        name
        for name, value in result.model.named_parameters()
        if name.endswith("weight") and (value.flatten(1) == 0).all(1).any()
    }
    assert silent <= {"conv": {"stem.0.weight", "stage1.0.weight"}, "fc": {"hidden.weight"}}.get(
        component, silent
    )
    assert "head.weight" not in silent


def test_a_net_without_such_layers_is_incompatible() -> None:
    with pytest.raises(Incompatible, match='component = "fc"'):
        settings(component="fc").defend(access_to(Tiny().build(Tiny.task)))


def test_a_layer_keeps_its_best_neuron() -> None:
    result = settings(threshold=1.0).defend(access_to(Tiny().build(Tiny.task)))
    assert result.record["pruned"] == 10.0
    with pytest.raises(Incompatible, match="only 10 of 12"):
        settings(prune="number", number=11).defend(access_to(Tiny().build(Tiny.task)))


@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_accuracy_bounds_the_pruning(drop: float) -> None:
    """Without a limit everything up to 0.9 goes; with none to lose accuracy on the held-out images
    does not fall.
    """
    net = Tiny().build(Tiny.task)
    access = access_to(net, data=pictures(60))
    result = settings(prune="accuracy", drop=drop, holdout=0.5, iterations=40).defend(access)
    assert 0 <= result.record["pruned"] <= 10
    if drop == 1.0:
        everything = settings(prune="threshold", threshold=0.9, iterations=40).defend(
            access_to(net, data=pictures(60))
        )
        assert result.record["pruned"] > 0
        assert everything.record["pruned"] > 0


def test_few_images_fill_batches_and_every_pass_is_counted() -> None:
    access = access_to(Tiny().build(Tiny.task), data=pictures(5))
    settings(iterations=4, batch=16, steps=2).defend(access)
    assert access.images_processed == 4 * 16 * (1 + 2 + 1)


def test_zeroed_is_what_is_left_of_the_function() -> None:
    net = Tiny(norms=False).build(Tiny.task)
    zeroed(net, ["stem.0"], [torch.tensor([True, False, False, False])])
    outputs = net.get_submodule("stem.0")(torch.rand(2, 1, 8, 8))
    torch.testing.assert_close(
        outputs[:, 0], net.get_submodule("stem.0").bias[0].expand_as(outputs[:, 0])
    )


def test_presets_are_valid_and_every_parameter_has_a_meaning() -> None:
    for preset in ANP.presets.values():
        ANP.model_validate_json(json.dumps(preset))
    assert all(field.description for field in ANP.model_fields.values())
