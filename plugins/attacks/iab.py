"""IAB, input-aware dynamic backdoor: every image gets a trigger of its own, which is to work on no
other.

Nguyen & Tran, NeurIPS 2020. A generator draws a pattern for an image, a mask net says where it
goes. The mask net learns first and alone: its masks shall be sparse, and differ as the images do.
Then the attacker trains classifier and generator together, on batches that hold triggered images
with the target label, images under the trigger made for another image (cross mode) with their own
labels, and clean ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn
from torch.nn import functional

from harness import (
    AttackAccess,
    Context,
    Fraction,
    Incompatible,
    Listed,
    Quantise,
    Recipe,
    TargetedAttack,
    Task,
)
from harness.learn import (
    Batch,
    Extra,
    Normalise,
    PoisonedSet,
    augment,
    global_random,
    poison_with_cover,
    to_float,
)
from plugins.parts.encoder_decoder import EncoderDecoder, squashed

COLOUR = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
GREY = ((0.5,), (0.5,))
"""Mean and standard deviation in the released code, of CIFAR-10 and of MNIST."""
BATCH = 128
"""Of the mask net's training."""
EPSILON = 1e-7
"""Keeps quotients finite."""
STEEPNESS = 20.0
"""Of the curve that makes masks nearly binary."""
JUDGED = 1000
"""Training images over which the density of finished masks is recorded."""


class IAB(TargetedAttack):
    """Trigger generated for each image, with cross mode (Nguyen & Tran 2020).

    BCU cuts the classifier's training to 125 epochs and leaves all milestones where they were: its
    preset goes with `training.recipe = "iab-bcu"`.
    """

    citation = "Nguyen, Tran: Input-Aware Dynamic Backdoor Attack, NeurIPS 2020"
    recipe = "iab"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "paper/gtsrb": {"mean": [0.0], "std": [1.0], "flip": False},
        "paper/mnist": {"stages": 2, "channels": 16, "rotation": 0.0, "flip": False},
        "anp": {},
        "anp-all": {"label_map": "all-to-all"},
        "bcu": {"milestones": [], "quantise": "truncate"},
        "bcu/gtsrb": {"mean": [0.0], "std": [1.0], "flip": False, "target": 2},  # the largest class
    }

    poison_rate: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """share of each batch that is triggered; as many again are in cross mode"""
    density: Annotated[float, Field(ge=0, le=1)] = 0.032
    """opacity that every pixel of a mask may have without penalty"""
    density_weight: Annotated[float, Field(ge=0)] = 100.0
    """of the opacity beyond it, in the mask net's loss"""
    diversity_weight: Annotated[float, Field(ge=0)] = 1.0
    """of the diversity of masks in the mask net's loss, and of patterns in the generator's"""
    accumulate: bool = True
    """sum the generator's gradients over all steps, never clearing them, as the released code and
    its ports do; false: the gradient of each step alone, as the paper describes it
    """
    stages: Annotated[int, Field(ge=1)] = 3
    """poolings and upsamplings of both nets; the paper has 2 for MNIST"""
    channels: Annotated[int, Field(ge=1)] = 32
    """of both nets' first stage, doubled with each; the paper has 16 for MNIST"""
    mean: tuple[float, ...] | None = None
    """what both nets subtract from [0,1] pixels; none: the mean of CIFAR-10 from colour images, 0.5
    from grey ones
    """
    std: tuple[float, ...] | None = None
    """what they divide by, and the unit of their distances; none: that of CIFAR-10, or 0.5"""
    lr: Annotated[float, Field(gt=0)] = 0.01
    """learning rate of both nets, by Adam"""
    milestones: Annotated[tuple[Fraction, ...], Listed] = (
        200 / 575,
        300 / 575,
        400 / 575,
        500 / 575,
    )
    """where the generator's rate falls to a tenth, in shares of the classifier's training"""
    mask_epochs: Annotated[int, Field(ge=1)] = 25
    """length of the mask net's training, which goes before"""
    mask_milestones: Annotated[tuple[Fraction, ...], Listed] = (0.4, 0.8)
    """where its rate falls to a tenth, in shares of that"""
    crop: Annotated[int, Field(ge=0)] = 5
    """padding of random crops in pixels, for the mask net, which is trained before `[training]`
    matters
    """
    rotation: Annotated[float, Field(ge=0, le=180)] = 10.0
    """largest angle in degrees, for the mask net"""
    flip: bool = True
    """mirror at random, for the mask net"""
    quantise: Quantise = "none"
    """how triggered test images return to uint8: the source never rounds, BCU's code sends them
    through PIL, which truncates
    """

    @model_validator(mode="after")
    def _schedules_are_ones(self) -> Self:
        try:
            self._mask_recipe()
            Recipe(**self._adam(self.milestones))
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self

    @property
    def test_quantise(self) -> Quantise:
        """As `quantise` says."""
        return self.quantise

    def compatible(self, context: Context) -> str | None:
        """Images must be halved `stages` times without a remainder, to two pixels at least."""
        task = context.task
        for side in (task.height, task.width):
            if side % 2**self.stages or side < 2 ** (self.stages + 1):
                return f"images of {task.height}x{task.width} are not halved {self.stages} times: lower `stages`"
        try:
            mean, std = self._normalisation(task)
            Normalise(mean, std)
        except ValueError as error:
            return str(error)
        if not {len(mean), len(std)} <= {1, task.channels}:
            return f"mean and std hold {len(mean)} and {len(std)} numbers, images have {task.channels} channels"
        return super().compatible(context)

    def trigger(self, task: Task) -> nn.Module:
        """Both nets; `craft` starts and trains them."""
        return self._nets(task, 0)

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Start both nets, train the mask net."""
        assert isinstance(trigger, InputAware)
        trigger.load_state_dict(self._nets(access.task, access.seed("nets")).state_dict())
        images, recipe = access.train.images.to(access.device), self._mask_recipe()
        strangers = Strangers(images, recipe, access.generator("strangers"))

        def loss(_: nn.Module, batch: Batch) -> Tensor:
            others = strangers.take(len(batch.images))
            masks, other_masks = trigger.masks(batch.images), trigger.masks(others)
            sparse = functional.relu(masks - self.density).mean()
            differing = diversity(
                trigger.normalise(batch.images), trigger.normalise(others), masks, other_masks
            )
            return self.density_weight * sparse + self.diversity_weight * differing

        access.fit(trigger.mask_net, access.train, recipe, loss=loss)
        with torch.no_grad():
            access.record["mask_density"] = float(trigger.masks(to_float(images[:JUDGED])).mean())

    def poison(self, access: AttackAccess, trigger: nn.Module | None) -> PoisonedSet:
        """For defenses that train: what a batch holds, triggered images and those in cross mode, as
        one set.
        """
        assert isinstance(trigger, InputAware)
        cross = CrossMode(trigger, access.generator("cross"))
        return poison_with_cover(access, trigger, cross, self.poison_rate, 1.0)

    def implant(self, access: AttackAccess, trigger: nn.Module | None) -> nn.Module:
        """Train classifier and generator on mixed batches."""
        assert isinstance(trigger, InputAware)
        if self.poison_rate > 0 and not int(access.recipe.batch * self.poison_rate):
            raise Incompatible(
                f"poison_rate {self.poison_rate:g} of batches of {access.recipe.batch} triggers no image"
            )
        trigger.to(access.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        trigger.eval().generator.train()
        mixer = Mixer(self, access, trigger)
        learning = Extra(
            trigger.generator.parameters(),
            self._adam(self.milestones),
            zero_grad=not self.accumulate,
        )
        model = access.fresh_model()
        access.fit(model, access.train, loss=mixer.loss, extra=[learning])
        trigger.eval()
        return model

    def variants(self, trigger: nn.Module) -> Mapping[str, nn.Module]:
        """Cross mode: a good victim answers these with their true labels."""
        assert isinstance(trigger, InputAware)
        return {"cross": CrossMode(trigger, None)}

    def _nets(self, task: Task, seed: int) -> InputAware:
        """Both nets with the initial weights of `seed`."""
        with global_random(seed):
            return InputAware(
                task.channels, self.channels, self.stages, Normalise(*self._normalisation(task))
            )

    def _normalisation(self, task: Task) -> tuple[tuple[float, ...], tuple[float, ...]]:
        mean, std = COLOUR if task.channels > 1 else GREY
        return mean if self.mean is None else self.mean, std if self.std is None else self.std

    def _mask_recipe(self) -> Recipe:
        moves: dict[str, Any] = {"crop": self.crop, "rotation": self.rotation, "flip": self.flip}
        return Recipe(
            **self._adam(self.mask_milestones), **moves, epochs=self.mask_epochs, batch=BATCH
        )

    def _adam(self, milestones: tuple[float, ...]) -> dict[str, Any]:
        """The fields of a recipe that say how either net learns, whatever the classifier's are."""
        optimiser = {
            "optimizer": "adam",
            "lr": self.lr,
            "betas": (0.5, 0.9),
            "weight_decay": 0.0,
            "clip_norm": None,
        }
        steps = {
            "schedule": "step",
            "milestones": milestones,
            "gamma": 0.1,
            "rates": (),
            "warmup": None,
        }
        return {**optimiser, **steps, "update": "epoch"}


class Mixer:
    """One step of classifier and generator: mixes its batch and judges both."""

    def __init__(self, attack: IAB, access: AttackAccess, trigger: InputAware) -> None:
        self.attack, self.trigger = attack, trigger
        self.table = torch.tensor(access.label_table, device=access.device)
        self.smoothing = access.recipe.label_smoothing
        self.strangers = Strangers(
            access.train.images.to(access.device), access.recipe, access.generator("strangers")
        )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy on the mixed batch, and the diversity of patterns."""
        images, labels, differing = self.mix(batch)
        entropy = functional.cross_entropy(
            model(images).float(), labels, label_smoothing=self.smoothing
        )
        return entropy + self.attack.diversity_weight * differing

    def mix(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | float]:
        """The first images triggered, as many behind them in cross mode, the rest clean; labels;
        diversity.
        """
        assert batch.labels is not None
        count = int(len(batch.images) * self.attack.poison_rate)
        if not count:
            return batch.images, batch.labels, 0.0
        own, hosts, clean = torch.split(batch.images, [count, count, len(batch.images) - 2 * count])
        donors = self.strangers.take(count)
        with torch.no_grad():
            masks, donor_masks = torch.split(self.trigger.masks(torch.cat([own, donors])), count)
        # two passes, not one: each has BatchNorm statistics of its own in the source
        patterns, donor_patterns = self.trigger.patterns(own), self.trigger.patterns(donors)
        differing = diversity(*map(self.trigger.normalise, (own, donors, patterns, donor_patterns)))
        mapped = self.table[batch.labels[:count]]
        attacked = mapped >= 0
        triggered = torch.where(attacked.view(-1, 1, 1, 1), painted(own, patterns, masks), own)
        labels = torch.cat(
            [torch.where(attacked, mapped, batch.labels[:count]), batch.labels[count:]]
        )
        return (
            torch.cat([triggered, painted(hosts, donor_patterns, donor_masks), clean]),
            labels,
            differing,
        )


class Strangers:
    """A second pass over the training images, shuffled and augmented by itself: other images to go
    with a batch's.
    """

    def __init__(self, images: Tensor, recipe: Recipe, generator: torch.Generator) -> None:
        """`images`: uint8 (n, height, width, channels), on the device."""
        self.images, self.recipe, self.generator = images, recipe, generator
        self.left = torch.empty(0, dtype=torch.int64)

    def take(self, count: int) -> Tensor:
        """The next `count` images, [0,1] NCHW; a new order follows on the last."""
        while len(self.left) < count:
            self.left = torch.cat(
                [self.left, torch.randperm(len(self.images), generator=self.generator)]
            )
        chosen, self.left = self.left[:count], self.left[count:]
        chosen = chosen.to(self.images.device, non_blocking=True)
        return augment(to_float(self.images.index_select(0, chosen)), self.recipe, self.generator)


class InputAware(nn.Module):
    """x' = x + (p(x) - x) m(x), with the pattern p by a generator and the mask m by a mask net."""

    def __init__(self, channels: int, width: int, stages: int, normalise: Normalise) -> None:
        super().__init__()
        self.normalise = normalise
        self.generator = EncoderDecoder(channels, channels, width, stages)
        self.mask_net = EncoderDecoder(channels, 1, width, stages)

    def patterns(self, images: Tensor) -> Tensor:
        """Pictures in (0,1), as many channels as images."""
        pictures: Tensor = self.generator(self.normalise(images))
        return pictures

    def masks(self, images: Tensor) -> Tensor:
        """Opacities in [0,1], one channel, most of them next to 0 or 1: never made quite binary."""
        return squashed(STEEPNESS * (self.mask_net(self.normalise(images)) - 0.5))

    def forward(self, images: Tensor) -> Tensor:
        """[0,1] NCHW in and out."""
        return painted(images, self.patterns(images), self.masks(images))


class CrossMode(nn.Module):
    """Each image under the trigger made for another of its batch, in a random ring; one that is
    alone has its own.
    """

    def __init__(self, trigger: InputAware, generator: torch.Generator | None) -> None:
        super().__init__()
        self.trigger, self.generator = trigger, generator

    def forward(self, images: Tensor) -> Tensor:
        """[0,1] NCHW in and out."""
        ring = torch.randperm(len(images), generator=self.generator).to(images.device)
        donors = images[ring.roll(1)[ring.argsort()]]
        return painted(images, self.trigger.patterns(donors), self.trigger.masks(donors))


def painted(images: Tensor, patterns: Tensor, masks: Tensor) -> Tensor:
    """Images where the masks are 0, patterns where they are 1."""
    return images + (patterns - images) * masks


def diversity(images: Tensor, others: Tensor, outputs: Tensor, other_outputs: Tensor) -> Tensor:
    """Mean over pairs: how much more two images differ than what a net makes of them."""
    return (distance(images, others) / (distance(outputs, other_outputs) + EPSILON)).mean()


def distance(left: Tensor, right: Tensor) -> Tensor:
    """Root mean square of the difference, for each of n pairs: (n,). Its gradient at 0 is 0, not a
    NaN.
    """
    norms: Tensor = torch.linalg.vector_norm(left - right, dim=(1, 2, 3))
    return norms / math.sqrt(left[0].numel())
