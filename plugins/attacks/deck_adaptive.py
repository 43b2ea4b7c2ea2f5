"""DECK's adaptive attack: a trigger that is optimised while the network is hardened against it.

Tao et al., NDSS 2024, section V-E. The attacker knows the defense, and poisons a network that is
moved apart by DECK at the same time, in the hope that what survives this survives DECK later. "We
use the cross entropy loss to ensure the pattern can induce the target label and the L^2 loss to
minimize the perturbation magnitude":

    min over w, d of  CE(f_w(x), y) + weight ||d||^2,   poisoned images being clip(x + d)

No code is published. That the trigger is added to images, that network and trigger learn together,
and how steps of hardening go between them are choices of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import AttackAccess, Part, PoisoningAttack, Quantise, Task, Use, use
from harness.learn import Batch, Extra
from plugins.parts.pair_hardening import PairHardening
from plugins.parts.pervasive_hardening import PervasiveHardeningSettings, pervasive_hardening
from plugins.parts.ranges import CountOrZero, NotNegative, Positive


class DeckAdaptive(PervasiveHardeningSettings, PoisoningAttack):
    """Trigger optimised while DECK hardens the network that is poisoned (Tao et al. 2024).

    Steps of hardening are spread evenly over the training from `begin` on. They see the clean
    training images with their own labels, all of them; `[training]` says how images are augmented
    there, too. Batch, rates and optimiser of these steps are fields of the attack, those of the
    poisoning are `[training]`'s.
    """

    citation = "Tao et al.: DECK - Model Hardening for Defending Pervasive Backdoors, NDSS 2024"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deck": {},
        "deck-50": {"poison_rate": 0.5},
    }

    poison_rate: Annotated[float, Field(ge=0, le=1)] = 0.2
    """share of `rate_of` that is poisoned; the paper has 0.2 and 0.5"""
    quantise: Quantise = "round"
    """how triggered test images return to uint8; in training they keep floats, whose gradients the
    trigger needs
    """
    when: Literal["before-augment", "after-augment"] = "after-augment"
    """add the trigger to each batch before or after augmentation"""
    trigger_weight: NotNegative = 0.01
    """weight of the trigger's squared L2 norm, pixels in [0,1], against the mean cross-entropy of a
    batch; not given by the paper
    """
    trigger_lr: Positive = 0.01
    """learning rate of Adam for the trigger, pixels in [0,1], constant: our choice"""
    trigger_start: Positive = 0.01
    """deviation of the normal draws that it starts from, pixels in [0,1]: our choice"""
    begin: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """share of the training that passes before the hardening begins: our choice, since there is
    little to move apart in a new network
    """
    steps: CountOrZero = 780
    """steps of hardening in all, as many as the defense makes; 0: none, and the attacker adapts to
    nothing
    """
    decoder: Use[Part] = use("deck-decoder")
    """encoder whose features backdoors of the hardening change, with its decoder"""

    def unused(self) -> Mapping[str, str]:
        """Name what only hardening takes, where there is none."""
        unused = dict(super().unused())
        if self.steps == 0:
            for name in ("begin", "decoder", *PervasiveHardeningSettings.model_fields):
                if name != "steps":
                    unused[name] = "steps = 0 hardens nothing"
        elif self.start == "drawn":
            unused["spread"] = 'kernels that start "drawn" are no identity'
        return unused

    def trigger(self, task: Task) -> nn.Module:
        """Return a perturbation; `craft` draws where it starts, `implant` optimises it."""
        return Perturbation(task)

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Draw the perturbation that the optimisation starts from."""
        assert isinstance(trigger, Perturbation)
        drawn = torch.randn(access.task.image_shape, generator=access.generator("trigger"))
        with torch.no_grad():
            trigger.delta.copy_(self.trigger_start * drawn)

    def implant(self, access: AttackAccess, trigger: nn.Module | None) -> nn.Module:
        """Train network and trigger on poisoned batches, with steps of hardening between them.

        Raises Incompatible where a class has no image, or features of the images do not fall into
        z x z regions.
        """
        assert isinstance(trigger, Perturbation)
        poisoned = self.poison(access, trigger)
        data = poisoned.merge(access.train, stamp=False)
        stamp = adding(trigger.to(access.device), poisoned.mask(len(access.train)))
        model = access.fresh_model()
        keep: dict[str, object] = {}
        after_step = None
        if self.steps:
            hardening = self._hardening(access, model)
            keep.update(hardening.kept())
            del keep["model"]  # `fit` keeps it
            recipe = access.recipe
            of = recipe.total_steps(recipe.steps_per_epoch(len(data)))
            after_step = self._between(hardening, of)
        learning = Extra([trigger.delta], self._adam())
        before = self.when == "before-augment"
        access.fit(
            model,
            data,
            before_augment=stamp if before else None,
            after_augment=None if before else stamp,
            loss=self._loss(trigger, access.recipe.label_smoothing),
            extra=[learning],
            after_step=after_step,
            keep=keep,
        )
        access.record["trigger_norm"] = float(trigger.delta.detach().norm())
        if self.steps:
            access.record.update(hardening.record)
        return model

    def _hardening(self, access: AttackAccess, model: nn.Module) -> PairHardening:
        codec = access.part("decoder")
        return pervasive_hardening(self, access, model, codec, access.train, access.recipe)

    def _between(self, hardening: PairHardening, of: int) -> Callable[[Batch], None]:
        """Return the hook that makes the steps of hardening that are due after a step of `of`."""

        def after_step(batch: Batch) -> None:
            for _ in range(self.due(batch.step + 1, of) - self.due(batch.step, of)):
                hardening.step()
            # frozen BatchNorm is the hardening's alone
            hardening.model.train()

        return after_step

    def due(self, done: int, of: int) -> int:
        """Return the steps of hardening that are to be made by the time that `done` of `of` steps
        of poisoning are.
        """
        passed = max(0.0, done / of - self.begin) / (1 - self.begin)
        return int(self.steps * passed)

    def _loss(
        self, trigger: Perturbation, smoothing: float
    ) -> Callable[[nn.Module, Batch], Tensor]:
        def loss(model: nn.Module, batch: Batch) -> Tensor:
            assert batch.labels is not None
            logits = model(batch.images).float()
            entropy = functional.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
            return entropy + self.trigger_weight * trigger.delta.square().sum()

        return loss

    def _adam(self) -> dict[str, Any]:
        """Return the recipe fields by which the trigger learns, whatever the network's are."""
        return {
            "optimizer": "adam",
            "lr": self.trigger_lr,
            "betas": (0.9, 0.999),
            "weight_decay": 0.0,
            "clip_norm": None,
            "schedule": "constant",
            "rates": (),
            "horizon": None,
            "warmup": None,
        }


class Perturbation(nn.Module):
    """x' = clip(x + d)."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.delta = nn.Parameter(torch.zeros(task.image_shape))
        """what is added: (c, h, w), pixels in [0,1]"""

    def forward(self, images: Tensor) -> Tensor:
        """Stamp images: [0,1] NCHW in and out."""
        return (images + self.delta.to(images.dtype)).clamp(0, 1)


def adding(trigger: nn.Module, mask: Tensor) -> Callable[[Batch], Batch]:
    """Return a hook that puts the trigger on the poisoned images of a batch.

    `mask` (boolean) is over the training set, which has the poisoned images' labels already.
    Gradients reach the trigger.
    """
    mask = mask.cpu()

    def hook(batch: Batch) -> Batch:
        # on the CPU, so that the device is not waited for
        poisoned = mask[batch.indices].nonzero().squeeze(1)
        there = poisoned.to(batch.images.device, non_blocking=True)
        triggered = trigger(batch.images[there])
        return replace(batch, images=batch.images.index_copy(0, there, triggered))

    return hook
