"""Adversarial Neuron Pruning: neurons that turn to the target label when perturbed belong to the
backdoor.

Wu & Wang, NeurIPS 2021, as released. Every neuron has a mask m, to be learned, and relative
perturbations d of its weight and e of its bias, which an adversary chooses:

    min over m in [0,1] of  alpha CE(m, 1) + (1 - alpha) max over d, e of CE(m + d, 1 + e)

CE(m, b) is the cross-entropy of the network whose weights are scaled by m and whose biases by b.
Neurons whose mask ends low are cut from the original network; nothing is fine-tuned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from harness import Access, Fraction, Incompatible, Recipe, Result, Unit
from harness.learn import Batch, ImageSet
from plugins.parts.fine_tuning import Augmented
from plugins.parts.holdout import accuracy, hold_out
from plugins.parts.ranges import Count, CountOrZero, NotNegative, Positive

FULLY_CONNECTED = (nn.Linear, nn.BatchNorm1d)
DECIMALS = 4
"""Of the masks as the released code prints them; it prunes by what it printed."""
SWEEP = tuple(step / 20 for step in range(19))
"""Thresholds that `prune = "accuracy"` tries: 0, 0.05, ... 0.9, those of the released code."""

Noise = Sequence[tuple[Tensor, Tensor]]
"""For each layer the perturbations of its channels' weights and biases."""


class ANP(Augmented):
    """Prune the neurons that adversarial perturbation finds sensitive (Wu & Wang 2021).

    Masks are on BatchNorm scales, never on the shifts; in a net without BatchNorm they are on the
    output channels of convolutions and linear layers except the last. The neuron with the
    highest mask of a layer is never pruned: a layer without any would pass nothing on.
    """

    citation = "Wu, Wang: Adversarial Neuron Pruning Purifies Backdoored Deep Models, NeurIPS 2021"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "anp": {},
        "anp-mnist": {"eps": 0.3, "alpha": 0.5},
        "bcu": {"batch": 256, "prune": "accuracy"},
        # As published, on backdoored networks and on those without a backdoor.
        "deck": {},
        "trap": {},
        "trap/gtsrb": {"alpha": 0.1},
    }

    eps: NotNegative = 0.4
    """bound of the random start, and length of the whole ascent, relative to a neuron's weights"""
    steps: CountOrZero = 1
    """sign-gradient steps of eps / steps each"""
    projected: bool = False
    """keep perturbations within eps; the released code does not, so that start and ascent add up to
    2 eps
    """
    alpha: Fraction = 0.2
    """weight of the loss without perturbation"""
    iterations: CountOrZero = 2000
    """steps of the masks' optimiser"""
    lr: Positive = 0.2
    """learning rate of the masks"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """of the masks' SGD, which has no weight decay"""
    batch: Count = 128
    """clean images a step, drawn with replacement"""

    component: Literal["all", "conv", "fc"] = "all"
    """layers that are pruned: all, convolutional or fully connected ones (with their BatchNorm)"""
    prune: Literal["threshold", "number", "accuracy"] = "threshold"
    """neurons with masks up to `threshold`; the `number` lowest; up to the highest threshold of 0,
    0.05, ... 0.9 that costs no more than `drop` on images held out of the grant (BCU took test
    images, and the lowest ASR among those)
    """
    threshold: Fraction = 0.2
    """highest mask, rounded to 4 decimals, that is pruned"""
    number: CountOrZero = 20
    """neurons that prune = "number" takes; the released code tries multiples of 20"""
    drop: Fraction = 0.1
    """relative fall of accuracy that prune = "accuracy" accepts"""
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """share of the clean images that prune = "accuracy" sets aside"""

    def unused(self) -> Mapping[str, str]:
        """Name the settings of other ways to prune than the chosen one."""
        unused = dict(super().unused())
        takes = {
            "threshold": ("threshold",),
            "number": ("number",),
            "accuracy": ("drop", "holdout"),
        }
        for way, names in takes.items():
            if way != self.prune:
                unused.update(dict.fromkeys(names, f'prune = "{self.prune}"'))
        return unused

    def defend(self, access: Access) -> Result:
        """Learn the masks on a frozen copy, prune another copy."""
        data = access.clean()
        held = None
        if self.prune == "accuracy":
            data, held = hold_out(data, self.holdout, access.generator("holdout"))
        masked = Masked(access.victim(), self._layers(access))
        self._learn(access, masked, data)

        learned = [mask.detach().cpu().double() for mask in masked.masks]
        masks = torch.cat(learned)
        chosen = self._chosen(access, masked, masks, held)
        pruned = zeroed(access.victim(), masked.names, masked.by_layer(chosen))
        record = {"pruned": float(chosen.sum()), "neurons": float(len(masks))}
        return Result(model=pruned, record=record)

    def _layers(self, access: Access) -> list[Unit]:
        """Return the layers that `component` names. Raise Incompatible where there are none."""
        model = access.victim()
        layers = []
        for unit in access.units(model):
            layer = model.get_submodule(unit.module)
            scales = layer.weight is not None  # a BatchNorm may have none
            connected = isinstance(layer, FULLY_CONNECTED)
            meant = self.component == "all" or (self.component == "fc") == connected
            if scales and meant:
                layers.append(unit)
        if not layers:
            raise Incompatible(
                f'the network has no prunable layers for component = "{self.component}"'
            )
        return layers

    def _learn(self, access: Access, masked: Masked, data: ImageSet) -> None:
        """Train the masks.

        BatchNorm uses batch statistics, and what its averages become is thrown away.
        """
        draws = access.generator("noise")

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            assert isinstance(model, Masked)
            assert batch.labels is not None
            noise: Noise = [drawn(len(mask), self.eps, draws, mask.device) for mask in model.masks]
            for _ in range(self.steps):
                noise = self._ascended(model, batch, noise)
            perturbed = model(batch.images, noise).float()
            robust = functional.cross_entropy(perturbed, batch.labels)
            plain = model(batch.images).float()
            natural = functional.cross_entropy(plain, batch.labels)
            access.tick(images=(self.steps + 1) * len(batch.images))
            return self.alpha * natural + (1 - self.alpha) * robust

        def clip(batch: Batch) -> None:
            with torch.no_grad():
                for mask in masked.masks:
                    mask.clamp_(0, 1)

        # Batches are full even where there are fewer images: whole copies leave every image as
        # likely as any other.
        copies = math.ceil(self.batch / len(data))
        repeated = data.subset(torch.arange(len(data)).repeat(copies))
        access.fit(masked, repeated, self._recipe(access), loss=loss, after_step=clip)

    def _ascended(self, model: Masked, batch: Batch, noise: Noise) -> Noise:
        """Take one step of the adversary: eps / steps up the loss in each perturbation."""
        assert batch.labels is not None
        moving: list[tuple[Tensor, Tensor]] = []
        parts: list[Tensor] = []
        for d, e in noise:
            d.requires_grad_()
            e.requires_grad_()
            moving.append((d, e))
            parts.extend((d, e))
        logits = model(batch.images, moving).float()
        rising = functional.cross_entropy(logits, batch.labels)
        # A layer without biases has no gradient for theirs.
        gradients = torch.autograd.grad(rising, parts, allow_unused=True)
        moved = []
        for part, gradient in zip(parts, gradients, strict=True):
            step = part.detach()
            if gradient is not None:
                step = step + self.eps / self.steps * gradient.sign()
            if self.projected:
                step = step.clamp(-self.eps, self.eps)
            moved.append(step)
        return list(zip(moved[::2], moved[1::2], strict=True))

    def _recipe(self, access: Access) -> Recipe:
        """Return the masks' recipe; precision and determinism are the grid's."""
        grid = access.recipe
        recipe = Recipe(
            precision=grid.precision,
            deterministic=grid.deterministic,
            steps=self.iterations,
            batch=self.batch,
            replacement=True,
            drop_last=True,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=0.0,
        )
        return recipe.replace(**self.augmentation(access.task))

    def _chosen(
        self, access: Access, masked: Masked, masks: Tensor, held: ImageSet | None
    ) -> Tensor:
        """Choose the neurons to prune: boolean over all masks in order."""
        spared = torch.cat([highest(part) for part in masked.by_layer(masks)])
        if self.prune == "number":
            free = int((~spared).sum())
            if self.number > free:
                raise Incompatible(
                    f"number {self.number}, but only {free} of {len(masks)} neurons can be pruned"
                )
            return lowest(masks.masked_fill(spared, torch.inf), self.number)
        if held is None:
            return below(masks, self.threshold) & ~spared
        return self._affordable(access, masked, masks, spared, held)

    def _affordable(
        self, access: Access, masked: Masked, masks: Tensor, spared: Tensor, held: ImageSet
    ) -> Tensor:
        """Choose by the highest threshold of the sweep that costs no more than `drop`."""
        bound = (1 - self.drop) * accuracy(access, access.victim(), held)
        best = torch.zeros_like(spared)
        for threshold in SWEEP:
            tried = below(masks, threshold) & ~spared
            if torch.equal(tried, best):
                continue
            model = zeroed(access.victim(), masked.names, masked.by_layer(tried))
            if accuracy(access, model, held) >= bound:
                best = tried
        return best


class Masked(nn.Module):
    """A frozen network whose neurons are scaled by masks, which start at 1."""

    def __init__(self, net: nn.Module, units: Sequence[Unit]) -> None:
        super().__init__()
        self.net = net.requires_grad_(False)
        self.units = tuple(units)
        device = next(net.parameters()).device
        self.masks = nn.ParameterList()
        for unit in units:
            self.masks.append(nn.Parameter(torch.ones(unit.count, device=device)))

    @property
    def names(self) -> list[str]:
        """The layers, by the names of their modules."""
        return [unit.module for unit in self.units]

    def by_layer(self, values: Tensor) -> Sequence[Tensor]:
        """Split a tensor over all masks into one for each layer."""
        return torch.split(values, [unit.count for unit in self.units])

    def forward(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        """Return logits with weights w m and biases b; under `noise` w (m + d) and b (1 + e)."""
        scaled: dict[str, Tensor] = {}
        for place, unit in enumerate(self.units):
            layer = self.net.get_submodule(unit.module)
            weight = cast(Tensor, layer.weight)
            bias = cast("Tensor | None", layer.bias)
            m: Tensor = self.masks[place]
            if noise is not None:
                d, e = noise[place]
                m = m + d
            inner = [1] * (weight.ndim - 1)
            scaled[f"{unit.module}.weight"] = weight * m.view(-1, *inner)
            if noise is not None and bias is not None:
                scaled[f"{unit.module}.bias"] = bias * (1 + e)
        logits: Tensor = functional_call(self.net, scaled, (images,))
        return logits


def drawn(
    count: int, eps: float, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Draw perturbations of a layer's weights and biases.

    Both are (count,) and uniform between -eps and eps.
    """
    noise = eps * (2 * torch.rand(2, count, generator=generator) - 1)
    weights, biases = noise.to(device, non_blocking=True)
    return weights, biases


def below(masks: Tensor, threshold: float) -> Tensor:
    """Mark the masks that are no higher than the threshold.

    They are rounded to 4 decimals first, as the released code prints them.
    """
    marks = [round(float(mask), DECIMALS) <= threshold for mask in masks]
    return torch.tensor(marks, dtype=torch.bool)


def lowest(masks: Tensor, number: int) -> Tensor:
    """Mark the `number` lowest masks; of equal ones the earlier."""
    order = torch.argsort(masks, stable=True)
    chosen = torch.zeros(len(masks), dtype=torch.bool)
    chosen[order[:number]] = True
    return chosen


def highest(masks: Tensor) -> Tensor:
    """Mark the highest mask of a layer; of equal ones the first."""
    return torch.arange(len(masks)) == int(masks.argmax())


@torch.no_grad()
def zeroed(model: nn.Module, names: Sequence[str], chosen: Sequence[Tensor]) -> nn.Module:
    """Set the scale (or filter) of the chosen neurons to 0, in place.

    Shifts, biases and averages stay.
    """
    for name, which in zip(names, chosen, strict=True):
        weight = model.get_parameter(f"{name}.weight")
        weight[which.to(weight.device)] = 0
    return model
