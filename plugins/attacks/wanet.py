"""WaNet: a smooth warp as trigger, and a noise mode that teaches the net to ignore other warps.

Nguyen & Tran, ICLR 2021. The attacker controls training: every batch holds triggered images with
the target label, images under random warps with their own labels, and clean ones; augmentation
follows for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from harness import AttackAccess, Context, Fraction, Incompatible, Quantise, TargetedAttack, Task
from harness.learn import Batch, PoisonedSet, poison_with_cover, sent
from plugins.parts.mixed_batches import planned_to_trigger_none, triggers_none
from plugins.parts.ranges import NotNegative, Positive


class WaNet(TargetedAttack):
    """Imperceptible smooth warp, with noise mode (Nguyen & Tran 2021).

    BCU cuts the training to 200 epochs and leaves all milestones where they were: its preset goes
    with `training.recipe = "wanet-bcu"`.
    """

    citation = "Nguyen, Tran: WaNet - Imperceptible Warping-based Backdoor Attack, ICLR 2021"
    recipe = "wanet"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "bcu": {"poison_rate": 0.1, "cross_ratio": 2.0, "quantise": "truncate"},
        "bcu/gtsrb": {"target": 2},  # the largest class: the paper takes the largest ones in turn
        "deck": {},  # it takes the models that WaNet's authors released
    }

    poison_rate: Fraction = 0.1
    """share of each batch that is triggered"""
    cross_ratio: NotNegative = 2.0
    """images in noise mode for each triggered one"""
    k: Annotated[int, Field(ge=2)] = 4
    """side of the control grid"""
    s: Positive = 0.5
    """strength of the warp"""
    grid_rescale: Positive = 1.0
    """factor on the whole grid; a little below 1 keeps sampling points off the border"""
    quantise: Quantise = "none"
    """rounding of triggered test images to uint8: the source never rounds, BCU's code sends them
    through PIL, which truncates
    """

    @model_validator(mode="after")
    def _fits_a_batch(self) -> Self:
        if self.poison_rate * (1 + self.cross_ratio) > 1:
            raise ValueError(
                f"poison_rate {self.poison_rate} and cross_ratio {self.cross_ratio} "
                "ask for more than a whole batch"
            )
        return self

    @property
    def test_quantise(self) -> Quantise:
        """Rounding of triggered test images: as `quantise` says."""
        return self.quantise

    def compatible(self, context: Context) -> str | None:
        """Refuse images that are not square: the source's grid is."""
        height = context.task.height
        width = context.task.width
        if height != width:
            return f"images must be square, not {height}x{width}"
        return super().compatible(context) or planned_to_trigger_none(self.poison_rate, context)

    def trigger(self, task: Task) -> nn.Module:
        """Return the warp; `craft` draws its grid."""
        return Warp(task.height)

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Draw the control grid, once a replicate."""
        uniform = torch.rand(1, 2, self.k, self.k, generator=access.generator("grid"))
        points = uniform * 2 - 1
        grid = warp_grid(points, access.task.height, self.s, self.grid_rescale)
        trigger.get_buffer("grid").copy_(grid)

    def poison(self, access: AttackAccess, trigger: nn.Module | None) -> PoisonedSet:
        """Return, for defenses that train, the content of a batch as one set: triggered images and
        those in noise mode.
        """
        assert trigger is not None
        noise = NoiseMode(trigger, access.generator("noise"))
        return poison_with_cover(
            access.train,
            access.label_table,
            access.selection(),
            trigger,
            noise,
            poison_rate=self.poison_rate,
            cover_ratio=self.cross_ratio,
        )

    def implant(self, access: AttackAccess, trigger: nn.Module | None) -> nn.Module:
        """Train on mixed batches."""
        assert trigger is not None
        reason = triggers_none(self.poison_rate, access.recipe.batch, access.task.train_count)
        if reason is not None:
            raise Incompatible(reason)
        table = torch.tensor(access.label_table, device=access.device)
        noise = NoiseMode(trigger, access.generator("noise")).to(access.device)

        def mix(batch: Batch) -> Batch:
            assert batch.labels is not None
            triggered = int(len(batch.images) * self.poison_rate)
            crossed = int(triggered * self.cross_ratio)
            left = len(batch.images) - triggered - crossed
            to_warp, to_cross, clean = torch.split(batch.images, [triggered, crossed, left])
            true_labels = batch.labels[:triggered]
            mapped = table[true_labels]
            attacked = mapped >= 0
            warped = torch.where(attacked[:, None, None, None], trigger(to_warp), to_warp)
            labels = batch.labels.clone()
            labels[:triggered] = torch.where(attacked, mapped, true_labels)
            images = torch.cat([warped, noise(to_cross), clean])
            return replace(batch, images=images, labels=labels)

        model = access.fresh_model()
        access.fit(model, access.train, before_augment=mix)
        return model

    def variants(self, trigger: nn.Module) -> Mapping[str, nn.Module]:
        """Return noise mode: a good victim answers these images with their true labels."""
        return {"noise": NoiseMode(trigger, None)}


class Warp(nn.Module):
    """Bilinear sampling at the points of a stored grid."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.register_buffer("grid", identity_grid(side))

    def forward(self, images: Tensor) -> Tensor:
        """Stamp images: [0,1] NCHW in and out."""
        grid = self.get_buffer("grid").to(images.dtype)
        grids = grid.expand(len(images), -1, -1, -1)
        return functional.grid_sample(images, grids, align_corners=True)


class NoiseMode(nn.Module):
    """The trigger's warp with fresh noise at every pixel of every image: g + U[-1,1] / H, clamped.

    The divisor is the image side H, as in the source's code; the paper's text has the strength s in
    it.
    """

    def __init__(self, trigger: nn.Module, generator: torch.Generator | None) -> None:
        super().__init__()
        self.trigger = trigger
        self.generator = generator

    def forward(self, images: Tensor) -> Tensor:
        """Stamp images: [0,1] NCHW in and out."""
        grid = self.trigger.get_buffer("grid")
        side = grid.shape[1]
        uniform = torch.rand(len(images), *grid.shape[1:], generator=self.generator)
        noise = sent(uniform, grid.device) * 2 - 1
        noisy = (grid + noise / side).clamp(-1, 1)
        return functional.grid_sample(images, noisy.to(images.dtype), align_corners=True)


def identity_grid(side: int) -> Tensor:
    """Return sampling points that leave an image unchanged: (1, side, side, 2), the last axis x
    then y.
    """
    line = torch.linspace(-1, 1, side)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    return torch.stack((columns, rows), 2)[None]


def warp_grid(drawn: Tensor, side: int, s: float, grid_rescale: float) -> Tensor:
    """Return the trigger's grid from control points drawn in U[-1,1], (1, 2, k, k): normalised by
    their mean size, upsampled.

    The result is (1, side, side, 2); points move by at most s/2 pixels or so.
    """
    points = drawn / drawn.abs().mean()
    upsampled = functional.interpolate(points, size=side, mode="bicubic", align_corners=True)
    smooth = upsampled.permute(0, 2, 3, 1)
    moved = identity_grid(side) + s * smooth / side
    return (moved * grid_rescale).clamp(-1, 1)
