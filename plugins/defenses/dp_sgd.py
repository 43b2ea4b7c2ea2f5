"""DP-SGD: training in which no single image counts for more than noise hides.

Abadi et al., CCS 2016; against backdoors Du, Jia & Song, ICLR 2020. Each step takes every one of
the n images with probability q, independently (Poisson sampling). Each image's gradient g_i, over
all parameters as one vector, is shortened to a norm of C, and what the optimiser is given for a
gradient is

    (sum of g_i min(1, C / |g_i|) + N(0, (sigma C)^2)) / (q n)

with the expected number of images below, not that of the step. How private that is, epsilon, an
accountant tells. BatchNorm mixes the images of a batch, so that none has a gradient of its own:
GroupNorm takes its place.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional

from harness import Access, Defense, NotInKey, Recipe, Result, extra_module
from harness.learn import Batch, ImageSet, to_float
from plugins.parts.group_norm import without_batchnorm
from plugins.parts.stretching import stretched

SLACK = 1e-6
"""Added to norms before dividing by them, as in opacus."""
OWN = ("batch", "optimizer", "lr", "weight_decay")
"""Fields that replace those of the recipe as they are."""

Gradient = dict[str, Tensor]
"""By parameter name."""


class DPSGD(Defense):
    """Train from scratch with clipped and noisy gradients (Abadi et al. 2016, Du et al. 2020).

    The rest is as the victim was trained, unless a field below says otherwise; BatchNorm becomes
    GroupNorm. Recorded are `epsilon` (none without noise), `noise`, and `clipped`, the share of
    gradients that were shortened. Needs opacus: `pip install 'doorbench[dp]'`.
    """

    citation = (
        "Du, Jia, Song: Robust Anomaly Detection and Backdoor Attack Detection via DP, ICLR 2020"
    )
    needs: ClassVar[AbstractSet[str]] = frozenset({"training-set"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"trap": {}}

    noise: Annotated[float, Field(ge=0)] = 1.0
    """standard deviation of the noise, in units of `clip`; Trap-and-Replace tuned it from 0.5 to 10
    and does not say where that ended
    """
    epsilon: Annotated[float, Field(gt=0)] | None = None
    """privacy to be spent; the noise is then the least that will do, within 0.01 of it, and `noise`
    is not used
    """
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """probability with which epsilon may be exceeded; should lie below one over the number of
    images
    """
    accountant: Literal["rdp", "prv"] = "rdp"
    """how epsilon is worked out: by Renyi divergences, or by the privacy loss itself, which is
    tighter and slower
    """
    clip: Annotated[float, Field(gt=0)] = 1.0
    """largest norm of one image's gradient; 1 in Trap-and-Replace"""
    groups: Annotated[int, Field(ge=1)] = 32
    """most groups of a GroupNorm, 32 as in its paper; a divisor of the channels, with two channels
    a group at least
    """
    epochs: Annotated[int, Field(ge=0)] | None = None
    """expected passes over the training set, the schedule stretched with them; none: as the victim
    was trained
    """
    batch: Annotated[int, Field(ge=1)] | None = None
    """expected images a step; none: as the victim was trained"""
    optimizer: Literal["sgd", "adam", "adamw"] | None = None
    """what is done with the gradient; none: as the victim was trained"""
    lr: Annotated[float, Field(gt=0)] | None = None
    """learning rate; none: as the victim was trained"""
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    """it is not clipped, for it tells nothing of any image; none: as the victim was trained"""
    schedule: Literal["constant", "step", "cosine", "one-cycle", "linear"] | None = None
    """of the learning rate; none: as the victim was trained"""
    at_once: Annotated[int, Field(ge=1), NotInKey] = 64
    """images whose gradients are in memory together, each as large as the network; moves rounding
    errors only. Networks that torch cannot run in this way take them one by one
    """

    def defend(self, access: Access) -> Result:
        """Train a fresh network by `fit`, whose hooks draw the images and make the gradient."""
        opacus = Opacus(self.accountant, self.delta)
        data = access.training_set().to(access.device)
        recipe = self.recipe(access.recipe, len(data))
        steps = recipe.total_steps(recipe.steps_per_epoch(len(data)))
        rate = min(1.0, recipe.batch / len(data))
        noise = self.noise if self.epsilon is None else opacus.noise(self.epsilon, rate, steps)
        gradient = Private(self, noise, rate * len(data), recipe.label_smoothing, drawing(access))
        drawn = opacus.draws(len(data), rate, steps, access.generator("sample"))
        model = self.rebuild(access.fresh_model())
        access.fit(model, data, recipe, before_augment=poisson(data, drawn), loss=gradient.loss)
        record = {"noise": noise, "clipped": gradient.clipped}
        if math.isfinite(spent := opacus.epsilon(noise, rate, steps)):
            record["epsilon"] = spent
        return Result(model=model, record=record)

    def rebuild(self, model: nn.Module) -> nn.Module:
        """GroupNorm for BatchNorm, under the same names."""
        return without_batchnorm(model, self.groups)

    def recipe(self, grid: Recipe, count: int) -> Recipe:
        """What trains `count` images, given what trained the victim."""
        recipe = grid.replace(
            **{name: getattr(self, name) for name in OWN if getattr(self, name) is not None}
        )
        if self.schedule is not None:
            recipe = recipe.replace(schedule=self.schedule, rates=())
        return recipe if self.epochs is None else stretched(recipe, self.epochs, count)


class Private:
    """Makes the gradients of one training; `expected` is the number of images of a step that is
    divided by.
    """

    def __init__(
        self,
        settings: DPSGD,
        noise: float,
        expected: float,
        smoothing: float = 0.0,
        normal: Callable[[Tensor], Tensor] = torch.randn_like,
    ) -> None:
        self.settings, self.noise, self.expected, self.smoothing = (
            settings,
            noise,
            expected,
            smoothing,
        )
        self.normal = normal
        self.together = True
        self.cut: list[Tensor] = []
        self.seen = 0

    @property
    def clipped(self) -> float:
        """Share of the gradients so far that were longer than the bound."""
        return float(sum(self.cut)) / max(1, self.seen)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """A `loss` hook: the batch's mean cross-entropy, whose gradient `backward` finds to be the
        private one.
        """
        assert batch.labels is not None
        gradient, value = self.gradient(model, batch.images, batch.labels)
        leading = sum((model.get_parameter(name) * part).sum() for name, part in gradient.items())
        assert isinstance(leading, Tensor)
        return value + (leading - leading.detach())

    def gradient(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Gradient, Tensor]:
        """What the optimiser is given, and the mean loss of the images (0 where there is none)."""
        trained = {
            name: part.detach() for name, part in model.named_parameters() if part.requires_grad
        }
        total = {name: torch.zeros_like(part) for name, part in trained.items()}
        value = torch.zeros((), device=labels.device)
        if len(images):
            for some, some_labels in zip(
                *(torch.split(x, self.settings.at_once) for x in (images, labels)), strict=True
            ):
                value = value + self._add(model, trained, total, some, some_labels) / len(images)
        std = self.noise * self.settings.clip
        return {
            name: (part + std * self.normal(part)) / self.expected for name, part in total.items()
        }, value

    def _add(
        self, model: nn.Module, trained: Gradient, total: Gradient, images: Tensor, labels: Tensor
    ) -> Tensor:
        """Add the images' clipped gradients to `total`; the sum of their losses."""

        def loss(parameters: Gradient, image: Tensor, label: Tensor) -> Tensor:
            logits = functional_call(model, parameters, (image.unsqueeze(0),)).float()
            return functional.cross_entropy(
                logits, label.unsqueeze(0), label_smoothing=self.smoothing
            )

        gradients, losses = self._each(grad_and_value(loss), trained, images, labels)
        norms = norms_of(gradients)
        scales = (self.settings.clip / (norms + SLACK)).clamp(max=1.0)
        for name, gradient in gradients.items():
            total[name] += torch.tensordot(scales, gradient, dims=1)
        self.cut.append((norms > self.settings.clip).sum())
        self.seen += len(images)
        summed: Tensor = losses.sum()
        return summed

    def _each(
        self, gradient: Callable[..., Any], trained: Gradient, images: Tensor, labels: Tensor
    ) -> tuple[Gradient, Tensor]:
        """Gradients and loss of each image, images first: of all together where torch can do that
        with the network.
        """
        if self.together:
            try:
                # Each image has dropout of its own, as in a batch.
                found = vmap(gradient, in_dims=(None, 0, 0), randomness="different")(
                    trained, images, labels
                )
                return cast(tuple[Gradient, Tensor], found)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # such as in torchvision's layers that drop whole branches
                self.together = False
        alone = [
            gradient(trained, image, label) for image, label in zip(images, labels, strict=True)
        ]
        stacked = {name: torch.stack([parts[name] for parts, _ in alone]) for name in trained}
        return stacked, torch.stack([value for _, value in alone])


def norms_of(gradients: Mapping[str, Tensor]) -> Tensor:
    """The norm of each image's gradient over all parameters, given parameter by parameter with
    images first.
    """
    parts = [
        torch.linalg.vector_norm(part.reshape(len(part), -1), dim=1) for part in gradients.values()
    ]
    norms: Tensor = torch.linalg.vector_norm(torch.stack(parts, 1), dim=1)
    return norms


def drawing(access: Access) -> Callable[[Tensor], Tensor]:
    """Standard normal tensors like others, drawn where they are used: a step needs as many as there
    are weights.
    """
    generator = torch.Generator(access.device).manual_seed(access.seed("noise"))
    return lambda like: torch.randn(like.shape, generator=generator, device=like.device)


def poisson(data: ImageSet, drawn: Iterator[list[int]]) -> Callable[[Batch], Batch]:
    """A `before_augment` hook that puts the next of the drawn batches in the place of the one that
    is offered.
    """

    def swap(batch: Batch) -> Batch:
        assert data.labels is not None
        chosen = torch.tensor(next(drawn), dtype=torch.int64)
        there = chosen.to(data.device, non_blocking=True)
        return replace(
            batch, images=to_float(data.images[there]), labels=data.labels[there], indices=chosen
        )

    return swap


class Opacus:
    """Sampling and accounting of the library, loaded when it is needed."""

    def __init__(self, accountant: str, delta: float) -> None:
        self.accountants = extra_module("opacus.accountants", "dp")
        self.sampler = extra_module(
            "opacus.utils.uniform_sampler", "dp"
        ).UniformWithReplacementSampler
        self.accountant, self.delta = accountant, delta

    def draws(
        self, count: int, rate: float, steps: int, generator: torch.Generator
    ) -> Iterator[list[int]]:
        """The images of each step: every one of `count` with probability `rate`."""
        return iter(
            self.sampler(num_samples=count, sample_rate=rate, generator=generator, steps=steps)
        )

    def epsilon(self, noise: float, rate: float, steps: int) -> float:
        """What has been spent after the steps; infinite without noise."""
        if noise == 0 or steps == 0:
            return 0.0 if steps == 0 else math.inf
        accountant = self.accountants.create_accountant(mechanism=self.accountant)
        accountant.history = [(noise, rate, steps)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a bound might be tighter: it is one
            return float(accountant.get_epsilon(delta=self.delta))

    def noise(self, epsilon: float, rate: float, steps: int) -> float:
        """The least noise with which the steps spend no more than `epsilon`, to within 0.01 of it."""
        search = extra_module("opacus.accountants.utils", "dp").get_noise_multiplier
        aim = {
            "target_epsilon": epsilon,
            "target_delta": self.delta,
            "sample_rate": rate,
            "steps": steps,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(search(**aim, accountant=self.accountant))
