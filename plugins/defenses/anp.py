"""Adversarial Neuron Pruning: neurons that turn to the target label when perturbed belong to the
backdoor.

Wu & Wang, NeurIPS 2021, as released. Every neuron has a mask m, to be learned, and relative
perturbations d of its weight and e of its bias, which an adversary chooses:

    min over m in [0,1] of  alpha CE(m) + (1 - alpha) max over d, e of CE(m + d, 1 + e)

Neurons whose mask ends low are cut from the original network; nothing is fine-tuned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from harness import Access, Defense, Incompatible, Recipe, Result, Unit
from harness.learn import Batch, ImageSet
from plugins.parts.fine_tuning import AUGMENTATION
from plugins.parts.holdout import accuracy, hold_out

FULLY_CONNECTED = (nn.Linear, nn.BatchNorm1d)
DECIMALS = 4
"""The released code prunes by masks that it printed with so many."""
SWEEP = tuple(step / 20 for step in range(19))
"""Thresholds that `prune = "accuracy"` tries: 0, 0.05, ... 0.9, those of the released code."""

Noise = Sequence[tuple[Tensor, Tensor]]
"""For each layer the perturbations of its channels' weights and biases."""


class ANP(Defense):
    """Prune the neurons that adversarial perturbation finds sensitive (Wu & Wang 2021).

    Masks are on BatchNorm scales, never on the shifts; in a net without BatchNorm on the output
    channels of convolutions and linear layers, the last one excepted. The neuron with the highest
    mask of a layer is never pruned, for a layer without any passes nothing on.
    """

    citation = "Wu, Wang: Adversarial Neuron Pruning Purifies Backdoored Deep Models, NeurIPS 2021"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "anp": {},
        "anp-mnist": {"eps": 0.3, "alpha": 0.5},
        "bcu": {"batch": 256, "prune": "accuracy"},
        "trap": {},
        "trap/gtsrb": {"alpha": 0.1},
    }

    eps: Annotated[float, Field(ge=0)] = 0.4
    """bound of the random start, and length of the whole ascent, relative to a neuron's weights"""
    steps: Annotated[int, Field(ge=0)] = 1
    """sign-gradient steps of eps / steps each"""
    projected: bool = False
    """keep perturbations within eps; the released code does not, so that start and ascent add up to
    2 eps
    """
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.2
    """weight of the loss without perturbation"""
    iterations: Annotated[int, Field(ge=0)] = 2000
    """steps of the masks' optimiser"""
    lr: Annotated[float, Field(gt=0)] = 0.2
    """learning rate of the masks"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """of the masks' SGD, which has no weight decay"""
    batch: Annotated[int, Field(ge=1)] = 128
    """clean images a step, drawn with replacement"""
    crop: Annotated[int, Field(ge=0)] | None = None
    """padding of the random crop in pixels; none: as the victim was trained"""
    flip: bool | None = None
    """mirror at random; none: as the victim was trained"""

    component: Literal["all", "conv", "fc"] = "all"
    """which layers are pruned: all, convolutional or fully connected ones (with their BatchNorm)"""
    prune: Literal["threshold", "number", "accuracy"] = "threshold"
    """neurons with masks up to `threshold`; the `number` lowest; up to the highest threshold of 0,
    0.05, ... 0.9 that costs no more than `drop` on images held out of the grant (BCU took test
    images, and the lowest ASR among those)
    """
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.2
    """highest mask, rounded to 4 decimals, that is pruned"""
    number: Annotated[int, Field(ge=0)] = 20
    """neurons that prune = "number" takes; the released code tries multiples of 20"""
    drop: Annotated[float, Field(ge=0, le=1)] = 0.1
    """relative fall of accuracy that prune = "accuracy" accepts"""
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """share of the clean images that prune = "accuracy" sets aside"""

    def defend(self, access: Access) -> Result:
        """Learn the masks on a frozen copy, prune another."""
        data, held = access.clean(), None
        if self.prune == "accuracy":
            data, held = hold_out(data, self.holdout, access.generator("holdout"))
        masked = Masked(access.victim(), list(self._layers(access)))
        self._learn(access, masked, data)
        names = [unit.module for unit in masked.units]
        masks = torch.cat([mask.detach().cpu().double() for mask in masked.masks])
        chosen = self._chosen(access, masked, masks, held)
        pruned = zeroed(
            access.victim(), names, torch.split(chosen, [unit.count for unit in masked.units])
        )
        return Result(
            model=pruned, record={"pruned": float(chosen.sum()), "neurons": float(len(masks))}
        )

    def _layers(self, access: Access) -> Iterator[Unit]:
        model = access.victim()
        found = [
            unit for unit in access.units(model) if self._wanted(model.get_submodule(unit.module))
        ]
        if not found:
            raise Incompatible(
                f'the network has no prunable layers for component = "{self.component}"'
            )
        yield from found

    def _wanted(self, layer: nn.Module) -> bool:
        connected = isinstance(layer, FULLY_CONNECTED)
        return layer.weight is not None and (
            self.component == "all" or (self.component == "fc") == connected
        )

    def _learn(self, access: Access, masked: Masked, data: ImageSet) -> None:
        """Train the masks; BatchNorm uses batch statistics, and what its averages become is thrown
        away.
        """
        draws = access.generator("noise")

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            assert isinstance(model, Masked)
            assert batch.labels is not None
            noise: Noise = [drawn(len(mask), self.eps, draws, mask.device) for mask in model.masks]
            for _ in range(self.steps):
                noise = self._ascended(model, batch, noise)
            robust = functional.cross_entropy(model(batch.images, noise).float(), batch.labels)
            natural = functional.cross_entropy(model(batch.images).float(), batch.labels)
            access.tick(images=(self.steps + 1) * len(batch.images))
            return self.alpha * natural + (1 - self.alpha) * robust

        def clip(batch: Batch) -> None:
            with torch.no_grad():
                for mask in masked.masks:
                    mask.clamp_(0, 1)

        # Batches are full even where there are fewer images: whole copies leave every image as
        # likely as any other.
        repeated = data.subset(torch.arange(len(data)).repeat(-(-self.batch // len(data))))
        access.fit(masked, repeated, self._recipe(access), loss=loss, after_step=clip)

    def _ascended(self, model: Masked, batch: Batch, noise: Noise) -> Noise:
        """One step of the adversary: up the loss by eps / steps in each perturbation."""
        assert batch.labels is not None
        moving = [(d.requires_grad_(), e.requires_grad_()) for d, e in noise]
        flat = [part for pair in moving for part in pair]
        rising = functional.cross_entropy(model(batch.images, moving).float(), batch.labels)
        # A layer without biases has no gradient for theirs.
        gradients = torch.autograd.grad(rising, flat, allow_unused=True)
        moved = []
        for part, gradient in zip(flat, gradients, strict=True):
            step = (
                part.detach()
                if gradient is None
                else part.detach() + self.eps / self.steps * gradient.sign()
            )
            moved.append(step.clamp(-self.eps, self.eps) if self.projected else step)
        return list(zip(moved[::2], moved[1::2], strict=True))

    def _recipe(self, access: Access) -> Recipe:
        kept = {
            name: getattr(access.recipe, name)
            for name in (*AUGMENTATION, "precision", "deterministic")
        }
        own = {
            name: getattr(self, name)
            for name in ("crop", "flip")
            if getattr(self, name) is not None
        }
        return Recipe(
            **{**kept, **own},
            steps=self.iterations,
            batch=self.batch,
            replacement=True,
            drop_last=True,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=0.0,
        )

    def _chosen(
        self, access: Access, masked: Masked, masks: Tensor, held: ImageSet | None
    ) -> Tensor:
        """Which neurons to prune, boolean over all masks in order."""
        sizes = [unit.count for unit in masked.units]
        spared = torch.cat([highest(part) for part in torch.split(masks, sizes)])
        if self.prune == "number":
            free = int((~spared).sum())
            if self.number > free:
                raise Incompatible(
                    f"number {self.number}, but only {free} of {len(masks)} neurons can be pruned"
                )
            return lowest(masks.masked_fill(spared, torch.inf), self.number)
        if held is None:
            return below(masks, self.threshold) & ~spared
        names = [unit.module for unit in masked.units]
        bound, best = (
            (1 - self.drop) * accuracy(access, access.victim(), held),
            torch.zeros_like(spared),
        )
        for threshold in SWEEP:
            tried = below(masks, threshold) & ~spared
            if torch.equal(tried, best):
                continue
            if (
                accuracy(access, zeroed(access.victim(), names, torch.split(tried, sizes)), held)
                >= bound
            ):
                best = tried
        return best


class Masked(nn.Module):
    """A frozen network whose neurons are scaled by masks, which start at 1."""

    def __init__(self, net: nn.Module, units: Sequence[Unit]) -> None:
        super().__init__()
        self.net = net.requires_grad_(False)
        self.units = tuple(units)
        device = next(net.parameters()).device
        self.masks = nn.ParameterList(
            nn.Parameter(torch.ones(unit.count, device=device)) for unit in units
        )

    def forward(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        """Logits with weights w m and biases b; under `noise` with w (m + d) and b (1 + e)."""
        scaled: dict[str, Tensor] = {}
        for place, (unit, mask) in enumerate(zip(self.units, self.masks, strict=True)):
            layer = self.net.get_submodule(unit.module)
            factor = mask if noise is None else mask + noise[place][0]
            weight, bias = cast(Tensor, layer.weight), cast("Tensor | None", layer.bias)
            scaled[f"{unit.module}.weight"] = weight * factor.view(-1, *[1] * (weight.ndim - 1))
            if noise is not None and bias is not None:
                scaled[f"{unit.module}.bias"] = bias * (1 + noise[place][1])
        logits: Tensor = functional_call(self.net, scaled, (images,))
        return logits


def drawn(
    count: int, eps: float, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Perturbations of a layer's weights and biases, both (count,), uniform between -eps and eps."""
    weights, biases = (eps * (2 * torch.rand(2, count, generator=generator) - 1)).to(
        device, non_blocking=True
    )
    return weights, biases


def below(masks: Tensor, threshold: float) -> Tensor:
    """Which masks, rounded to 4 decimals as the released code prints them, are no higher than the
    threshold.
    """
    return torch.tensor(
        [round(float(mask), DECIMALS) <= threshold for mask in masks], dtype=torch.bool
    )


def lowest(masks: Tensor, number: int) -> Tensor:
    """Which masks are the `number` lowest; of equal ones the earlier."""
    chosen = torch.zeros(len(masks), dtype=torch.bool)
    chosen[torch.argsort(masks, stable=True)[:number]] = True
    return chosen


def highest(masks: Tensor) -> Tensor:
    """Which mask is the highest of its layer; of equal ones the first."""
    return torch.arange(len(masks)) == int(masks.argmax())


@torch.no_grad()
def zeroed(model: nn.Module, names: Sequence[str], chosen: Sequence[Tensor]) -> nn.Module:
    """The model with the scale (or filter) of the chosen neurons at 0; shifts, biases and averages
    stay.
    """
    for name, which in zip(names, chosen, strict=True):
        weight = model.get_parameter(f"{name}.weight")
        weight[which.to(weight.device)] = 0
    return model
