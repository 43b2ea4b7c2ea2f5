"""DP-SGD: training in which no single image counts for more than noise hides.

Abadi et al., CCS 2016; against backdoors Du, Jia & Song, ICLR 2020. Each step takes every one of
the n images with probability q, independently (Poisson sampling). Each image's gradient g_i, over
all parameters as one vector, is shortened to a norm of C, and what the optimiser is given for a
gradient is

    (sum of g_i min(1, C / |g_i|) + N(0, (sigma C)^2)) / (q n)

The divisor is the expected number of images, not that of the step. An accountant tells how private
that is: epsilon. BatchNorm mixes the images of a batch, so that none has a gradient of its own:
GroupNorm takes its place.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional

from harness import Access, Context, NotInKey, Recipe, Result, extra_module
from harness.learn import Batch, ImageSet, to_float
from plugins.parts.fine_tuning import Augmented
from plugins.parts.group_norm import without_batchnorm
from plugins.parts.ranges import Count, CountOrZero, NotNegative, Positive
from plugins.parts.stretching import stretched

SLACK = 1e-6
"""Added to norms before dividing by them, as in opacus."""
OWN = ("batch", "optimizer", "lr", "weight_decay")
"""Fields that replace those of the recipe as they are."""

Gradient = dict[str, Tensor]
"""By parameter name."""


class DPSGD(Augmented):
    """Train from scratch with clipped and noisy gradients (Abadi et al. 2016, Du et al. 2020).

    The rest is as the victim was trained, unless a field below says otherwise, except for the
    augmentation; BatchNorm becomes GroupNorm. Recorded are `epsilon` (none without noise), `noise`,
    and `clipped`, the share of gradients that were shortened. Needs opacus:
    `pip install 'doorbench[dp]'`.
    """

    citation = (
        "Du, Jia, Song: Robust Anomaly Detection and Backdoor Attack Detection via DP, ICLR 2020"
    )
    needs = frozenset({"training-set"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"trap": {}}

    noise: NotNegative = 1.0
    """standard deviation of the noise, in units of `clip`; Trap-and-Replace tuned it from 0.5 to 10
    and does not say where that ended
    """
    epsilon: Positive | None = None
    """privacy that may be spent; the noise is then the least that suffices, to within 0.01, and
    `noise` is not used
    """
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """probability with which epsilon may be exceeded; should lie below one over the number of
    images
    """
    accountant: Literal["rdp", "prv"] = "rdp"
    """way to compute epsilon: by Renyi divergences, or by the privacy loss itself, which is tighter
    and slower
    """
    clip: Positive = 1.0
    """largest norm of one image's gradient; 1 in Trap-and-Replace"""
    groups: Count = 32
    """most groups of a GroupNorm, 32 as in its paper; a divisor of the channels, with two channels
    a group at least
    """
    epochs: CountOrZero | None = None
    """expected passes over the training set, with the schedule stretched to them; none: as the
    victim was trained
    """
    batch: Count | None = None
    """expected images a step; none: as the victim was trained"""
    optimizer: Literal["sgd", "adam", "adamw"] | None = None
    """optimiser that is given the gradient; none: as the victim was trained"""
    lr: Positive | None = None
    """learning rate; none: as the victim was trained"""
    weight_decay: NotNegative | None = None
    """weight decay, which is not clipped, for it tells nothing of any image; none: as the victim
    was trained
    """
    schedule: Literal["constant", "step", "cosine", "one-cycle", "linear"] | None = None
    """of the learning rate; none: as the victim was trained"""
    at_once: Annotated[int, Field(ge=1), NotInKey] = 64
    """images whose gradients are in memory together, each as large as the network; moves rounding
    errors only. Networks that torch cannot run in this way take images one by one
    """

    def unused(self) -> Mapping[str, str]:
        """Name the noise where `epsilon` decides it."""
        unused = dict(super().unused())
        if self.epsilon is not None:
            unused["noise"] = "epsilon decides the noise"
        return unused

    def compatible(self, context: Context) -> str | None:
        """Refuse a learning rate beside a table of them."""
        recipe = context.recipe
        if recipe is None or self.lr is None or self.schedule is not None or not recipe.rates:
            return super().compatible(context)
        return (
            f'lr = {self.lr:g} would do nothing: the victim\'s schedule = "{recipe.schedule}" has '
            "its learning rates in `rates`; set schedule too"
        )

    def defend(self, access: Access) -> Result:
        """Train a fresh network by `fit`, whose hooks draw the images and make the gradient."""
        opacus = Opacus(self.accountant, self.delta)
        data = access.training_set().to(access.device)
        grid = access.recipe.replace(**self.augmentation(access.task))
        recipe = self.recipe(grid, len(data))
        steps = recipe.total_steps(recipe.steps_per_epoch(len(data)))
        rate = min(1.0, recipe.batch / len(data))
        noise = self.noise
        if self.epsilon is not None:
            noise = opacus.noise(self.epsilon, rate, steps)

        expected = rate * len(data)
        # On the device where it is used: a step needs as many normal numbers as there are weights.
        normals = torch.Generator(access.device).manual_seed(access.seed("noise"))
        private = Private(self, noise, expected, recipe.label_smoothing, drawing(normals))
        drawn = opacus.draws(len(data), rate, steps, access.generator("sample"))
        draw = poisson(data, drawn)
        model = self.rebuild(access.fresh_model())
        keep = {"private": private, "normals": normals}
        access.fit(model, data, recipe, before_augment=draw, loss=private.loss, keep=keep)

        record = {"noise": noise, "clipped": private.clipped}
        spent = opacus.epsilon(noise, rate, steps)
        if math.isfinite(spent):
            record["epsilon"] = spent
        return Result(model=model, record=record)

    def rebuild(self, model: nn.Module) -> nn.Module:
        """Put GroupNorm in the place of BatchNorm, under the same names."""
        return without_batchnorm(model, self.groups)

    def recipe(self, grid: Recipe, count: int) -> Recipe:
        """Return the recipe for `count` images, given the one that trained the victim."""
        own: dict[str, Any] = {}
        for name in OWN:
            value = getattr(self, name)
            if value is not None:
                own[name] = value
        recipe = grid.replace(**own)
        if self.schedule is not None:
            recipe = recipe.replace(schedule=self.schedule, rates=())
        if self.epochs is None:
            return recipe
        return stretched(recipe, self.epochs, count)


class Private:
    """The gradients of one training, which divides them by the `expected` images of a step."""

    def __init__(
        self,
        settings: DPSGD,
        noise: float,
        expected: float,
        smoothing: float = 0.0,
        normal: Callable[[Tensor], Tensor] = torch.randn_like,
    ) -> None:
        self.settings = settings
        self.noise = noise
        self.expected = expected
        self.smoothing = smoothing
        self.normal = normal
        self.together = True
        self.cut = torch.zeros((), dtype=torch.int64)
        """Gradients so far that were longer than the bound."""
        self.seen = 0
        """Gradients so far."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that steps change, for `fit` to keep."""
        return {"together": self.together, "cut": self.cut, "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.together = state["together"]
        self.cut = state["cut"]
        self.seen = state["seen"]

    @property
    def clipped(self) -> float:
        """Share of the gradients so far that were longer than the bound."""
        return float(self.cut) / max(1, self.seen)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the batch's mean cross-entropy, whose gradient is the private one.

        This is a `loss` hook: `backward` finds the factors of the parameters to be their gradient.
        """
        assert batch.labels is not None
        gradient, value = self.gradient(model, batch.images, batch.labels)
        leading = sum((model.get_parameter(name) * part).sum() for name, part in gradient.items())
        assert isinstance(leading, Tensor)
        return value + (leading - leading.detach())

    def gradient(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Gradient, Tensor]:
        """Return what the optimiser is given, and the images' mean loss (0 if there are none)."""
        trained = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                trained[name] = parameter.detach()
        total = {name: torch.zeros_like(part) for name, part in trained.items()}
        value = torch.zeros((), device=labels.device)
        if len(images):
            size = self.settings.at_once
            chunks = zip(torch.split(images, size), torch.split(labels, size), strict=True)
            for some, some_labels in chunks:
                summed = self._add(model, trained, total, some, some_labels)
                value = value + summed / len(images)
        std = self.noise * self.settings.clip
        given = {}
        for name, part in total.items():
            noisy = part + std * self.normal(part)
            given[name] = noisy / self.expected
        return given, value

    def _add(
        self, model: nn.Module, trained: Gradient, total: Gradient, images: Tensor, labels: Tensor
    ) -> Tensor:
        """Add the images' clipped gradients to `total`; return the sum of their losses."""

        def loss(parameters: Gradient, image: Tensor, label: Tensor) -> Tensor:
            batch = image.unsqueeze(0)
            logits = functional_call(model, parameters, (batch,)).float()
            return functional.cross_entropy(
                logits, label.unsqueeze(0), label_smoothing=self.smoothing
            )

        gradients, losses = self._each(grad_and_value(loss), trained, images, labels)
        norms = norms_of(gradients)
        scales = (self.settings.clip / (norms + SLACK)).clamp(max=1.0)
        for name, gradient in gradients.items():
            total[name] += torch.tensordot(scales, gradient, dims=1)
        longer = norms > self.settings.clip
        self.cut = self.cut + longer.sum()
        self.seen += len(images)
        summed: Tensor = losses.sum()
        return summed

    def _each(
        self, gradient: Callable[..., Any], trained: Gradient, images: Tensor, labels: Tensor
    ) -> tuple[Gradient, Tensor]:
        """Return gradients and loss of each image, images first.

        All images go together where torch can do that with the network.
        """
        if self.together:
            try:
                # Each image has dropout of its own, as in a batch.
                batched = vmap(gradient, in_dims=(None, 0, 0), randomness="different")
                return cast(tuple[Gradient, Tensor], batched(trained, images, labels))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # such as in torchvision's layers that drop whole branches
                self.together = False
        alone = []
        losses = []
        for image, label in zip(images, labels, strict=True):
            parts, loss = gradient(trained, image, label)
            alone.append(parts)
            losses.append(loss)
        stacked = {}
        for name in trained:
            stacked[name] = torch.stack([parts[name] for parts in alone])
        return stacked, torch.stack(losses)


def norms_of(gradients: Mapping[str, Tensor]) -> Tensor:
    """Return the norm of each image's gradient over all parameters.

    `gradients` are given parameter by parameter, images first.
    """
    by_parameter = []
    for gradient in gradients.values():
        rows = gradient.reshape(len(gradient), -1)
        by_parameter.append(torch.linalg.vector_norm(rows, dim=1))
    norms: Tensor = torch.linalg.vector_norm(torch.stack(by_parameter, 1), dim=1)
    return norms


def drawing(generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Return a function that draws a standard normal tensor like another, on its device."""
    return lambda like: torch.randn(like.shape, generator=generator, device=like.device)


def poisson(data: ImageSet, drawn: Iterator[list[int]]) -> Callable[[Batch], Batch]:
    """Return a `before_augment` hook that exchanges each batch for the next of the drawn ones."""

    def swap(batch: Batch) -> Batch:
        assert data.labels is not None
        chosen = torch.tensor(next(drawn), dtype=torch.int64)
        there = chosen.to(data.device, non_blocking=True)
        images = to_float(data.images[there])
        return replace(batch, images=images, labels=data.labels[there], indices=chosen)

    return swap


class Opacus:
    """Sampling and accounting of the library, loaded when it is needed."""

    def __init__(self, accountant: str, delta: float) -> None:
        self.accountants = extra_module("opacus.accountants", "dp")
        sampling = extra_module("opacus.utils.uniform_sampler", "dp")
        self.sampler = sampling.UniformWithReplacementSampler
        self.accountant = accountant
        self.delta = delta

    def draws(
        self, count: int, rate: float, steps: int, generator: torch.Generator
    ) -> Iterator[list[int]]:
        """Draw the images of each step: every one of `count` with probability `rate`.

        Nothing but the generator's state decides what comes next, until there were `steps`.
        """
        return iter(
            self.sampler(num_samples=count, sample_rate=rate, generator=generator, steps=steps)
        )

    def epsilon(self, noise: float, rate: float, steps: int) -> float:
        """Return the privacy that the steps have spent; infinite without noise."""
        if steps == 0:
            return 0.0
        if noise == 0:
            return math.inf
        accountant = self.accountants.create_accountant(mechanism=self.accountant)
        accountant.history = [(noise, rate, steps)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a bound might be tighter: it is one
            return float(accountant.get_epsilon(delta=self.delta))

    def noise(self, epsilon: float, rate: float, steps: int) -> float:
        """Find the least noise, to within 0.01, with which the steps spend up to `epsilon`."""
        utils = extra_module("opacus.accountants.utils", "dp")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            least = utils.get_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=self.delta,
                sample_rate=rate,
                steps=steps,
                accountant=self.accountant,
            )
        return float(least)
