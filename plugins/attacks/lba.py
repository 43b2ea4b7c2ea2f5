"""LBA, the latent backdoor: a patch that gives an inner layer the features of the target class.

Yao et al., CCS 2019; Trap-and-Replace takes it as the attack that adapts to it, injected into all
layers before the one that it replaces. First a pattern within a fixed square is optimised on a
clean network, until stamped images look to the layer like images of the target. Then a network is
trained to keep its answers on clean images and to match the features on stamped ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from harness import AttackAccess, Context, Incompatible, Part, PoisoningAttack, Task, Use, use
from harness.learn import Batch, to_float
from plugins.parts.points import Point, locate
from plugins.parts.squashing import squash, unsquash
from plugins.parts.watched import watched

BETAS = (0.5, 0.9)
"""Of the Adam that optimises the pattern, in the released code."""
TRAP: Mapping[str, Any] = {
    "control": "data",
    "poison_rate": 0.1,
    "eligible": "non-target",
    "order": "first",
}


class LBA(PoisoningAttack):
    """Latent backdoor: patch optimised to give an inner layer the target's features (Yao et al.
    2019).

    With `control = "training"` the attacker trains: from the clean network on, with cross-entropy
    on clean images and `weight` times the squared distance of stamped images' features from the
    target's, as the clean network has them. With `control = "data"` the optimised patch poisons a
    training set as any other, the only reading that suits Trap-and-Replace, which trains from
    poisoned data; its paper does not tell. Numbers of layers are those of WRN-16-1 without its
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
    """what the attacker controls; where it is training, poison_rate and its like are for the
    exported set alone, but for `eligible`, which also says on what images the pattern is optimised
    """
    layer: Point = "features"
    """whose output is to match: `features` (what the head receives), `stem`, `stages[i]` or
    `blocks[i]`
    """
    share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """side of the square as a share of the image's width, rounded down to pixels"""
    margin: Annotated[int, Field(ge=0)] = 1
    """pixels between the square and the lower right corner"""
    aim: Literal["samples", "mean"] = "samples"
    """features to match: those of target images drawn at random for each image (released code), or
    their mean
    """
    pooled: bool = False
    """average feature maps over positions before they are compared (TrojanZoo)"""
    dims: Annotated[int, Field(ge=1)] | None = None
    """compare this many features, the first, while the pattern is optimised; none: all (the paper);
    100 in its code
    """
    steps: Annotated[int, Field(ge=0)] = 1550
    """updates of the pattern; 50 rounds of 31 batches in the released code"""
    images: Annotated[int, Field(ge=1)] = 32
    """images in each of them"""
    pattern_lr: Annotated[float, Field(gt=0)] = 0.1
    """learning rate of Adam for the pattern"""
    weight: Annotated[float, Field(ge=0)] = 0.05
    """of the feature term while the victim is trained"""
    epochs: Annotated[int, Field(ge=0)] = 5
    """passes of that training"""
    batch: Annotated[int, Field(ge=1)] = 16
    """images in each of its steps, which see them clean and stamped"""
    optimizer: Literal["adam", "adadelta"] = "adam"
    """of that training; adam is ours, the released code has adadelta"""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """its learning rate, constant; ours, 0.01 in the released code"""

    @model_validator(mode="after")
    def _has_one_target(self) -> Self:
        if self.label_map == "all-to-all":
            raise ValueError(
                "features can match those of one target: label_map all-to-all has none"
            )
        return self

    @property
    def training_controlled(self) -> bool:
        """Not where the attacker only poisons data."""
        return self.control == "training"

    def compatible(self, context: Context) -> str | None:
        """The square must fit."""
        task = context.task
        side = int(self.share * task.width)
        if side < 1 or side + self.margin > min(task.height, task.width):
            return f"a square of {side} pixels with margin {self.margin} does not fit {task.height}x{task.width}"
        return super().compatible(context)

    def trigger(self, task: Task) -> nn.Module:
        """The square; `craft` fills its pattern."""
        return Square(task, int(self.share * task.width), self.margin)

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Optimise the pattern on the clean network."""
        assert isinstance(trigger, Square)
        model = access.part("benign").requires_grad_(False)
        draw = access.generator("pattern")
        wanted = self._wanted(access, model)[:, : self.dims]
        bodies = access.train.images[self._attacked(access)].to(access.device)
        free = (
            unsquash(torch.rand(trigger.pattern.shape, generator=draw))
            .to(access.device)
            .requires_grad_()
        )
        optimiser = torch.optim.Adam([free], lr=self.pattern_lr, betas=BETAS)
        with watched(model, [self._point(access, model)]) as seen:

            def distance(chosen: Tensor, aims: Tensor) -> Tensor:
                model(trigger.stamped(to_float(bodies[chosen]), squash(free)))
                return functional.mse_loss(self._latent(seen)[:, : self.dims], aims)

            for step in range(self.steps):
                chosen = torch.randint(len(bodies), (self.images,), generator=draw).to(
                    access.device
                )
                aims = wanted[
                    torch.randint(len(wanted), (self.images,), generator=draw).to(access.device)
                ]
                found = distance(chosen, aims)
                (free.grad,) = torch.autograd.grad(found, [free])
                optimiser.step()
                access.tick(self.images, step + 1, self.steps)
                if step == 0:
                    access.record["distance_before"] = float(found.detach())
                if step == self.steps - 1:
                    access.record["distance_after"] = float(found.detach())
        trigger.pattern.copy_(trigger.mask * squash(free).detach().clamp(0, 1))

    def implant(self, access: AttackAccess, trigger: nn.Module | None) -> nn.Module:
        """Train on from the clean network, or leave it to the host."""
        if self.control == "data":
            return super().implant(access, trigger)
        assert isinstance(trigger, Square)
        model: nn.Module = access.part("benign")
        wanted = self._wanted(access, model)
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
            access.fit(model, access.train, recipe, loss=self._loss(access, trigger, wanted, seen))
        return model

    def _loss(
        self, access: AttackAccess, trigger: nn.Module, wanted: Tensor, seen: Mapping[str, Tensor]
    ) -> Callable[[nn.Module, Batch], Tensor]:
        """The `loss` hook: both kinds of image in one pass, so that BatchNorm sees what it will
        meet.
        """
        table = torch.tensor(access.label_table, device=access.device)
        # Each image strives for the same target image throughout, as in the released code.
        drawing = access.generator("aims")
        aims = torch.randint(len(wanted), (len(access.train),), generator=drawing)

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            assert batch.labels is not None
            count, attacked = len(batch.images), table[batch.labels] >= 0
            logits = model(torch.cat([batch.images, trigger(batch.images)]))[:count].float()
            aimed = wanted[aims[batch.indices].to(wanted.device, non_blocking=True)]
            gaps = (self._latent(seen)[count:] - aimed).square().mean(1)
            near = (gaps * attacked).sum() / attacked.sum().clamp_min(1)
            return functional.cross_entropy(logits, batch.labels) + self.weight * near

        return loss

    def _attacked(self, access: AttackAccess) -> Tensor:
        """Places of the training images that are stamped while the pattern is optimised (int64)."""
        assert access.train.labels is not None
        kept = torch.tensor(access.label_table)[access.train.labels] >= 0
        if self.eligible == "non-target":
            kept &= access.train.labels != self.target
        return kept.nonzero().squeeze(1)

    @torch.no_grad()
    def _wanted(self, access: AttackAccess, model: nn.Module) -> Tensor:
        """What the clean network makes of the target's images, (m, features), or their mean, (1,
        features).
        """
        assert access.train.labels is not None
        target = access.train.subset(access.train.labels == self.target).to(access.device)
        if not len(target):
            raise Incompatible(
                f"class {self.target} has no training images whose features could be matched"
            )
        found = []
        with watched(model, [self._point(access, model)]) as seen:
            for images, _ in target.batches(500):
                model(images)
                access.tick()
                found.append(self._latent(seen))
        features = torch.cat(found)
        return features.mean(0, keepdim=True) if self.aim == "mean" else features

    def _point(self, access: AttackAccess, model: nn.Module) -> str:
        return locate(access.anatomy(model), self.layer)

    def _latent(self, seen: Mapping[str, Tensor]) -> Tensor:
        """The layer's latest output as (n, features), in single precision."""
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
        bottom, right = task.height - margin, task.width - margin
        mask = torch.zeros(1, task.height, task.width)
        mask[:, bottom - side : bottom, right - side : right] = 1
        self.register_buffer("mask", mask)
        self.register_buffer("pattern", torch.zeros(task.image_shape))

    def forward(self, images: Tensor) -> Tensor:
        """[0,1] NCHW in and out."""
        return self.stamped(images, self.pattern)

    def stamped(self, images: Tensor, pattern: Tensor) -> Tensor:
        """The same with another pattern, (c, h, w) in [0,1]."""
        return torch.where(self.mask > 0, pattern, images)
