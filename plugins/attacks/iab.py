"""IAB, input-aware dynamic backdoor: every image gets a trigger of its own, which should work on no
other.

Nguyen & Tran, NeurIPS 2020. A generator draws a pattern for an image, a mask net says where it
goes. The mask net learns first and alone: its masks should be sparse, and differ as the images do.
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
    global_random,
    poison_with_cover,
    to_float,
)
from plugins.parts.input_aware import CrossMode, InputAware, painted
from plugins.parts.mixed_batches import planned_to_trigger_none, triggers_none
from plugins.parts.ranges import Count, CountOrZero, NotNegative, Positive
from plugins.parts.strangers import Strangers

MeanAndStd = tuple[tuple[float, ...], tuple[float, ...]]

COLOUR: MeanAndStd = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
"""Mean and standard deviation of CIFAR-10 in the released code."""
GREY: MeanAndStd = ((0.5,), (0.5,))
"""The same of MNIST."""
BATCH = 128
"""Batch of the mask net's training."""
EPSILON = 1e-7
"""Small number that keeps quotients finite."""
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
    density: Fraction = 0.032
    """opacity that every pixel of a mask may have without penalty"""
    density_weight: NotNegative = 100.0
    """weight of the opacity beyond it, in the mask net's loss"""
    diversity_weight: NotNegative = 1.0
    """weight of the diversity of masks in the mask net's loss, and of patterns in the generator's
    """
    accumulate: bool = True
    """sum the generator's gradients over all steps, never clearing them, as the released code and
    its ports do; false: the gradient of each step alone, as the paper describes it
    """
    stages: Count = 3
    """poolings and upsamplings of both nets; the paper has 2 for MNIST"""
    channels: Count = 32
    """channels of both nets' first stage, doubled with each; the paper has 16 for MNIST"""
    mean: tuple[float, ...] | None = None
    """colour that both nets subtract from [0,1] pixels; none: the mean of CIFAR-10 from colour
    images, 0.5 from grey ones
    """
    std: tuple[float, ...] | None = None
    """divisor of the result, and the unit of their distances; none: that of CIFAR-10, or 0.5"""
    lr: Positive = 0.01
    """learning rate of both nets, by Adam"""
    milestones: Annotated[tuple[Fraction, ...], Listed] = (
        200 / 575,
        300 / 575,
        400 / 575,
        500 / 575,
    )
    """ends of the generator's rates, each a tenth of the one before, in shares of the classifier's
    training
    """
    mask_epochs: Count = 25
    """length of the mask net's training, which comes first"""
    mask_milestones: Annotated[tuple[Fraction, ...], Listed] = (0.4, 0.8)
    """ends of its rates, in shares of that"""
    crop: CountOrZero = 5
    """padding of random crops in pixels, for the mask net, which is trained before `[training]`
    matters
    """
    rotation: Annotated[float, Field(ge=0, le=180)] = 10.0
    """largest angle in degrees, for the mask net"""
    flip: bool | None = None
    """mirror at random, for the mask net; none: all images but signs and digits"""
    quantise: Quantise = "none"
    """rounding of triggered test images to uint8: the source never rounds, BCU's code sends them
    through PIL, which truncates
    """

    @model_validator(mode="after")
    def _schedules_are_valid(self) -> Self:
        try:
            self._mask_recipe(None)
            Recipe(**self._adam(self.milestones))
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise ValueError(message.removeprefix("Value error, ")) from None
        return self

    @property
    def test_quantise(self) -> Quantise:
        """Rounding of triggered test images: as `quantise` says."""
        return self.quantise

    def compatible(self, context: Context) -> str | None:
        """Refuse images that cannot be halved `stages` times without a remainder, to two pixels at
        least.
        """
        task = context.task
        for side in (task.height, task.width):
            if side % 2**self.stages or side < 2 ** (self.stages + 1):
                return (
                    f"images of {task.height}x{task.width} are not halved {self.stages} times: "
                    "lower `stages`"
                )
        mean, std = self._mean_and_std(task)
        try:
            Normalise(mean, std)
        except ValueError as error:
            return str(error)
        suitable = {1, task.channels}
        if len(mean) not in suitable or len(std) not in suitable:
            return (
                f"mean and std hold {len(mean)} and {len(std)} numbers, "
                f"images have {task.channels} channels"
            )
        return super().compatible(context) or planned_to_trigger_none(self.poison_rate, context)

    def trigger(self, task: Task) -> nn.Module:
        """Return both nets; `craft` starts and trains them."""
        return self._nets(task, 0)

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Start both nets, train the mask net."""
        assert isinstance(trigger, InputAware)
        started = self._nets(access.task, access.seed("nets"))
        trigger.load_state_dict(started.state_dict())
        images = access.train.images.to(access.device)
        recipe = self._mask_recipe(access.task).replace(**access.numerics)
        strangers = Strangers(images, recipe, access.generator("strangers"))

        def loss(_: nn.Module, batch: Batch) -> Tensor:
            others = strangers.take(len(batch.images))
            masks = trigger.masks(batch.images)
            other_masks = trigger.masks(others)
            density = functional.relu(masks - self.density).mean()
            normalised = trigger.normalise(batch.images)
            other_normalised = trigger.normalise(others)
            sameness = diversity(normalised, other_normalised, masks, other_masks)
            return self.density_weight * density + self.diversity_weight * sameness

        keep = {"strangers": strangers}
        access.fit(trigger.mask_net, access.train, recipe, loss=loss, keep=keep)
        with torch.no_grad():
            masks = trigger.masks(to_float(images[:JUDGED]))
            access.record["mask_density"] = float(masks.mean())

    def poison(self, access: AttackAccess, trigger: nn.Module | None) -> PoisonedSet:
        """Return, for defenses that train, the content of a batch as one set: triggered images and
        those in cross mode.
        """
        assert isinstance(trigger, InputAware)
        cross = CrossMode(trigger, access.generator("cross"))
        return poison_with_cover(
            access.train,
            access.label_table,
            access.selection(),
            trigger,
            cross,
            poison_rate=self.poison_rate,
            cover_ratio=1.0,
        )

    def implant(self, access: AttackAccess, trigger: nn.Module | None) -> nn.Module:
        """Train classifier and generator on mixed batches."""
        assert isinstance(trigger, InputAware)
        reason = triggers_none(self.poison_rate, access.recipe.batch, access.task.train_count)
        if reason is not None:
            raise Incompatible(reason)
        trigger.to(access.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        trigger.eval()
        trigger.generator.train()
        mixer = Mixer(self, access, trigger)
        learning = Extra(
            trigger.generator.parameters(),
            self._adam(self.milestones),
            zero_grad=not self.accumulate,
        )
        model = access.fresh_model()
        # the generator besides its weights, which `learning` has: its BatchNorm's averages
        keep = {"trigger": trigger, "strangers": mixer.strangers}
        access.fit(model, access.train, loss=mixer.loss, extra=[learning], keep=keep)
        trigger.eval()
        return model

    def variants(self, trigger: nn.Module) -> Mapping[str, nn.Module]:
        """Return cross mode: a good victim answers these images with their true labels."""
        assert isinstance(trigger, InputAware)
        return {"cross": CrossMode(trigger, None)}

    def _nets(self, task: Task, seed: int) -> InputAware:
        """Return both nets with the initial weights of `seed`."""
        mean, std = self._mean_and_std(task)
        with global_random(seed):
            return InputAware(task.channels, self.channels, self.stages, Normalise(mean, std))

    def _mean_and_std(self, task: Task) -> MeanAndStd:
        """Return both as set, or as the released code has them."""
        mean, std = COLOUR if task.channels > 1 else GREY
        if self.mean is not None:
            mean = self.mean
        if self.std is not None:
            std = self.std
        return mean, std

    def _mask_recipe(self, task: Task | None) -> Recipe:
        """Return the recipe of the mask net's training on a task (none: on any)."""
        flip = self.flip
        if flip is None:
            flip = task is not None and task.mirrors
        return Recipe(
            **self._adam(self.mask_milestones),
            crop=self.crop,
            rotation=self.rotation,
            flip=flip,
            epochs=self.mask_epochs,
            batch=BATCH,
        )

    def _adam(self, milestones: tuple[float, ...]) -> dict[str, Any]:
        """Return the recipe fields by which either net learns, whatever the classifier's are."""
        return {
            "optimizer": "adam",
            "lr": self.lr,
            "betas": (0.5, 0.9),
            "weight_decay": 0.0,
            "clip_norm": None,
            "schedule": "step",
            "milestones": milestones,
            "gamma": 0.1,
            "rates": (),
            "warmup": None,
            "update": "epoch",
        }


class Mixer:
    """One step of classifier and generator: mixes its batch and judges both."""

    def __init__(self, attack: IAB, access: AttackAccess, trigger: InputAware) -> None:
        self.attack = attack
        self.trigger = trigger
        self.table = torch.tensor(access.label_table, device=access.device)
        self.smoothing = access.recipe.label_smoothing
        images = access.train.images.to(access.device)
        self.strangers = Strangers(images, access.recipe, access.generator("strangers"))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy on the mixed batch plus the diversity of patterns."""
        images, labels, sameness = self.mix(batch)
        logits = model(images).float()
        entropy = functional.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        return entropy + self.attack.diversity_weight * sameness

    def mix(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | float]:
        """Return the batch with its first images triggered, as many behind them in cross mode, the
        rest clean; its labels; and the diversity of patterns.
        """
        assert batch.labels is not None
        count = int(len(batch.images) * self.attack.poison_rate)
        if not count:
            return batch.images, batch.labels, 0.0
        rest = len(batch.images) - 2 * count
        own, hosts, clean = torch.split(batch.images, [count, count, rest])
        donors = self.strangers.take(count)

        with torch.no_grad():
            all_masks = self.trigger.masks(torch.cat([own, donors]))
        masks, donor_masks = torch.split(all_masks, count)
        # two passes, not one: each has BatchNorm statistics of its own in the source
        patterns = self.trigger.patterns(own)
        donor_patterns = self.trigger.patterns(donors)
        normalise = self.trigger.normalise
        sameness = diversity(
            normalise(own), normalise(donors), normalise(patterns), normalise(donor_patterns)
        )

        own_labels = batch.labels[:count]
        mapped = self.table[own_labels]
        attacked = mapped >= 0
        painted_own = painted(own, patterns, masks)
        triggered = torch.where(attacked.view(-1, 1, 1, 1), painted_own, own)
        triggered_labels = torch.where(attacked, mapped, own_labels)
        labels = torch.cat([triggered_labels, batch.labels[count:]])
        crossed = painted(hosts, donor_patterns, donor_masks)
        return torch.cat([triggered, crossed, clean]), labels, sameness


def diversity(images: Tensor, others: Tensor, outputs: Tensor, other_outputs: Tensor) -> Tensor:
    """Return how many times more images differ than a net's outputs for them, mean over pairs."""
    between_images = distance(images, others)
    between_outputs = distance(outputs, other_outputs)
    return (between_images / (between_outputs + EPSILON)).mean()


def distance(left: Tensor, right: Tensor) -> Tensor:
    """Return the root mean square of the difference, for each of n pairs: (n,). Its gradient at 0
    is 0, not a NaN.
    """
    norms: Tensor = torch.linalg.vector_norm(left - right, dim=(1, 2, 3))
    return norms / math.sqrt(left[0].numel())
