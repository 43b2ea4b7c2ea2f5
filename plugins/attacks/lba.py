"""LBA, the latent backdoor: a patch that gives an inner layer the features of the target class.

Yao et al., CCS 2019; Trap-and-Replace takes it as the attack that adapts to it, injected into all
layers before the one that it replaces. First a pattern within a fixed square is optimised on a
clean network, until stamped images look to the layer like images of the target. Then a network is
trained to keep its answers on clean images and to match the features on stamped ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional

from harness import AttackAccess, Context, Incompatible, Part, PoisoningAttack, Task, Use, use
from harness.learn import Batch, to_float, together
from plugins.parts.points import Point, locate
from plugins.parts.ranges import Count, CountOrZero, NotNegative, Positive, Share
from plugins.parts.squashing import squash, unsquash
from plugins.parts.watched import watched

BETAS = (0.5, 0.9)
"""Betas of the Adam that optimises the pattern, in the released code."""
CHUNK = 500
"""Images that go through the clean network together at most."""
TRAP: Mapping[str, Any] = {
    "control": "data",
    "poison_rate": 0.1,
    "eligible": "non-target",
    "order": "first",
}


class LBA(PoisoningAttack):
    """Patch optimised to give an inner layer the features of the target class (Yao et al. 2019).

    With `control = "training"` the attacker trains: from the clean network on, with cross-entropy
    on clean images and `weight` times the squared distance of stamped images' features from the
    target's, as the clean network has them. With `control = "data"` the optimised patch poisons a
    training set like any other, the only reading that suits Trap-and-Replace, which trains from
    poisoned data; its paper does not say. Numbers of layers are those of WRN-16-1 without its
    shortcuts: 14 is the head.
    """

    citation = "Yao et al.: Latent Backdoor Attacks on Deep Neural Networks, CCS 2019"
    needs: ClassVar[AbstractSet[str]] = frozenset({"model"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "trap-14": {**TRAP, "layer": "features"},
        "trap-12": {**TRAP, "layer": "blocks[4]"},
        "trap-10": {**TRAP, "layer": "stages[1]"},
        "released": {"dims": 100, "optimizer": "adadelta", "lr": 0.01},
        "trojanzoo": {
            "aim": "mean",
            "pooled": True,
            "weight": 0.5,
            "eligible": "non-target",
            "steps": 900,
            "images": 100,
        },
    }

    benign: Use[Part] = use("clean-model")
    """the clean network that the pattern is optimised on and that training starts from"""
    control: Literal["training", "data"] = "training"
    """the attacker's control; where it is of training, poison_rate and its kind are for the
    exported set alone, except for `eligible`, which also says on what images the pattern is
    optimised
    """
    layer: Point = "features"
    """the layer whose output should match: `features` (what the head receives), `stem`, `stages[i]`
    or `blocks[i]`
    """
    share: Share = 0.2
    """side of the square as a share of the image's width, rounded down to pixels"""
    margin: CountOrZero = 1
    """pixels between the square and the lower right corner"""
    aim: Literal["samples", "mean"] = "samples"
    """features to match: those of target images drawn at random for each image (released code), or
    their mean
    """
    pooled: bool = False
    """average feature maps over positions before they are compared (TrojanZoo)"""
    dims: Count | None = None
    """compare the first so many features while the pattern is optimised; none: all (the paper); 100
    in its code
    """
    steps: CountOrZero = 1550
    """updates of the pattern; 50 rounds of 31 batches in the released code"""
    images: Count = 32
    """images in each of them"""
    pattern_lr: Positive = 0.1
    """learning rate of Adam for the pattern"""
    weight: NotNegative = 0.05
    """weight of the feature term while the victim is trained"""
    epochs: CountOrZero = 5
    """passes of that training"""
    batch: Count = 16
    """images in each of its steps, which see them clean and stamped"""
    optimizer: Literal["adam", "adadelta"] = "adam"
    """optimiser of that training; adam is ours, the released code has adadelta"""
    lr: Positive = 1e-3
    """its learning rate, constant; ours, 0.01 in the released code"""

    @model_validator(mode="after")
    def _has_one_target(self) -> Self:
        if not self.has_one_target:
            raise ValueError(
                "features can match those of one target: "
                'label_map must be "all-to-one" or "source-specific"'
            )
        return self

    @property
    def training_controlled(self) -> bool:
        """False where the attacker only poisons data."""
        return self.control == "training"

    def compatible(self, context: Context) -> str | None:
        """Refuse images that the square does not fit into."""
        task = context.task
        side = int(self.share * task.width)
        if side < 1 or side + self.margin > min(task.height, task.width):
            return (
                f"a square of {side} pixels with margin {self.margin} "
                f"does not fit {task.height}x{task.width}"
            )
        return super().compatible(context)

    def unused(self) -> Mapping[str, str]:
        """Name the settings of the training where the host trains."""
        unused = dict(super().unused())
        if self.control == "data":
            names = ("weight", "epochs", "batch", "optimizer", "lr")
            unused.update(dict.fromkeys(names, 'control = "data"'))
        return unused

    def trigger(self, task: Task) -> nn.Module:
        """Return the square; `craft` fills its pattern."""
        return Square(task, int(self.share * task.width), self.margin)

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Optimise the pattern on the clean network."""
        assert isinstance(trigger, Square)
        model = access.part("benign").requires_grad_(False)
        generator = access.generator("pattern")
        features = self._target_features(access, model)[:, : self.dims]
        bodies = access.train.images[self._attacked(access)].to(access.device)
        drawn = torch.rand(trigger.pattern.shape, generator=generator)
        # unbounded, so that Adam may move it freely: squashed, it is the pattern
        free = unsquash(drawn).to(access.device).requires_grad_()
        optimiser = torch.optim.Adam([free], lr=self.pattern_lr, betas=BETAS)
        with watched(model, [self._point(access, model)]) as seen:
            keep = {"pattern": free, "adam": optimiser}
            for step in access.steps(self.steps, keep=keep):
                chosen = torch.randint(len(bodies), (self.images,), generator=generator)
                aimed = torch.randint(len(features), (self.images,), generator=generator)
                aims = features[aimed.to(access.device)]
                images = to_float(bodies[chosen.to(access.device)])

                model(trigger.stamped(images, squash(free)))
                latent = self._latent(seen)[:, : self.dims]
                distance = functional.mse_loss(latent, aims)
                (free.grad,) = torch.autograd.grad(distance, [free])
                optimiser.step()

                access.tick(self.images)
                if step == 0:
                    access.record["distance_before"] = float(distance.detach())
                if step == self.steps - 1:
                    access.record["distance_after"] = float(distance.detach())
        pattern = squash(free).detach().clamp(0, 1)
        trigger.pattern.copy_(trigger.mask * pattern)

    def implant(self, access: AttackAccess, trigger: nn.Module | None) -> nn.Module:
        """Train on from the clean network, or leave it to the host."""
        if self.control == "data":
            return super().implant(access, trigger)
        assert isinstance(trigger, Square)
        model: nn.Module = access.part("benign")
        features = self._target_features(access, model)
        recipe = access.recipe.replace(
            epochs=self.epochs,
            steps=None,
            batch=self.batch,
            optimizer=self.optimizer,
            lr=self.lr,
            weight_decay=0.0,
            schedule="constant",
            rates=(),
            horizon=None,
            warmup=None,
        )
        with watched(model, [self._point(access, model)]) as seen:
            loss = self._loss(access, trigger, features, seen)
            access.fit(model, access.train, recipe, loss=loss)
        return model

    def _loss(
        self, access: AttackAccess, trigger: nn.Module, features: Tensor, seen: Mapping[str, Tensor]
    ) -> Callable[[nn.Module, Batch], Tensor]:
        """Return the `loss` hook: both kinds of image in one pass, so that BatchNorm sees both."""
        table = torch.tensor(access.label_table, device=access.device)
        # Each image strives for the same target image throughout, as in the released code.
        generator = access.generator("aims")
        aim_of_each = torch.randint(len(features), (len(access.train),), generator=generator)

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            assert batch.labels is not None
            count = len(batch.images)
            attacked = table[batch.labels] >= 0
            clean_and_stamped = torch.cat([batch.images, trigger(batch.images)])
            logits = model(clean_and_stamped)[:count].float()
            aimed = aim_of_each[batch.indices].to(features.device, non_blocking=True)
            aims = features[aimed]
            latent = self._latent(seen)[count:]
            gaps = (latent - aims).square().mean(1)
            distance = (gaps * attacked).sum() / attacked.sum().clamp_min(1)
            entropy = functional.cross_entropy(logits, batch.labels)
            return entropy + self.weight * distance

        return loss

    def _attacked(self, access: AttackAccess) -> Tensor:
        """Return the places of the training images that are stamped while the pattern is optimised
        (int64).
        """
        labels = access.train.labels
        assert labels is not None
        kept = torch.tensor(access.label_table)[labels] >= 0
        if self.eligible == "non-target":
            kept &= labels != self.target
        return kept.nonzero().squeeze(1)

    @torch.no_grad()
    def _target_features(self, access: AttackAccess, model: nn.Module) -> Tensor:
        """Return the clean network's features of the target's images, (m, features), or their mean,
        (1, features).
        """
        assert access.train.labels is not None
        target = access.train.subset(access.train.labels == self.target)
        if not len(target):
            raise Incompatible(
                f"class {self.target} has no training images whose features could be matched"
            )
        parts: list[Tensor] = []
        size = min(CHUNK, together(target.images, access.device))
        with watched(model, [self._point(access, model)]) as seen:
            for images, _ in target.to(access.device).batches(size):
                model(images)
                access.tick()
                parts.append(self._latent(seen))
        features = torch.cat(parts)
        if self.aim == "mean":
            return features.mean(0, keepdim=True)
        return features

    def _point(self, access: AttackAccess, model: nn.Module) -> str:
        """Return the name of the module whose output is `layer`'s."""
        return locate(access.anatomy(model), self.layer)

    def _latent(self, seen: Mapping[str, Tensor]) -> Tensor:
        """Return the layer's latest output as (n, features), in single precision."""
        (output,) = seen.values()
        if self.pooled and output.ndim == 4:
            output = output.mean((2, 3))
        return output.float().flatten(1)


class Square(nn.Module):
    """x' = x outside a square near the lower right corner, its pattern inside."""

    mask: Tensor
    pattern: Tensor

    def __init__(self, task: Task, side: int, margin: int) -> None:
        super().__init__()
        bottom = task.height - margin
        right = task.width - margin
        mask = torch.zeros(1, task.height, task.width)
        mask[:, bottom - side : bottom, right - side : right] = 1
        self.register_buffer("mask", mask)
        self.register_buffer("pattern", torch.zeros(task.image_shape))

    def forward(self, images: Tensor) -> Tensor:
        """Stamp images: [0,1] NCHW in and out."""
        return self.stamped(images, self.pattern)

    def stamped(self, images: Tensor, pattern: Tensor) -> Tensor:
        """Stamp images with another pattern, (c, h, w) in [0,1]."""
        return torch.where(self.mask > 0, pattern, images)
