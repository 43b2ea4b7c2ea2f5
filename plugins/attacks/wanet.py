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

from harness import AttackAccess, Context, Incompatible, Quantise, TargetedAttack, Task
from harness.learn import Batch, PoisonedSet, poison_with_cover, sent


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

    poison_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """share of each batch that is triggered"""
    cross_ratio: Annotated[float, Field(ge=0)] = 2.0
    """images in noise mode for each triggered one"""
    k: Annotated[int, Field(ge=2)] = 4
    """side of the control grid"""
    s: Annotated[float, Field(gt=0)] = 0.5
    """strength of the warp"""
    grid_rescale: Annotated[float, Field(gt=0)] = 1.0
    """factor on the whole grid; a little below 1 keeps sampling points off the border"""
    quantise: Quantise = "none"
    """how triggered test images return to uint8: the source never rounds, BCU's code sends them
    through PIL, which truncates
    """

    @model_validator(mode="after")
    def _fits_a_batch(self) -> Self:
        if self.poison_rate * (1 + self.cross_ratio) > 1:
            raise ValueError(
                f"poison_rate {self.poison_rate} and cross_ratio {self.cross_ratio} ask for more than a whole batch"
            )
        return self

    @property
    def test_quantise(self) -> Quantise:
        """As `quantise` says."""
        return self.quantise

    def compatible(self, context: Context) -> str | None:
        """The source's grid is square."""
        if context.task.height != context.task.width:
            return f"images must be square, not {context.task.height}x{context.task.width}"
        return super().compatible(context)

    def trigger(self, task: Task) -> nn.Module:
        """The warp; `craft` draws its grid."""
        return Warp(task.height)

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Draw the control grid, once a replicate."""
        drawn = torch.rand(1, 2, self.k, self.k, generator=access.generator("grid")) * 2 - 1
        grid = warp_grid(drawn, access.task.height, self.s, self.grid_rescale)
        trigger.get_buffer("grid").copy_(grid)

    def poison(self, access: AttackAccess, trigger: nn.Module | None) -> PoisonedSet:
        """For defenses that train: what a batch holds, triggered images and those in noise mode, as
        one set.
        """
        assert trigger is not None
        noise = NoiseMode(trigger, access.generator("noise"))
        return poison_with_cover(access, trigger, noise, self.poison_rate, self.cross_ratio)

    def implant(self, access: AttackAccess, trigger: nn.Module | None) -> nn.Module:
        """Train on mixed batches."""
        assert trigger is not None
        if self.poison_rate > 0 and not int(access.recipe.batch * self.poison_rate):
            raise Incompatible(
                f"poison_rate {self.poison_rate:g} of batches of {access.recipe.batch} triggers no image"
            )
        table = torch.tensor(access.label_table, device=access.device)
        noise = NoiseMode(trigger, access.generator("noise")).to(access.device)

        def mix(batch: Batch) -> Batch:
            assert batch.labels is not None
            triggered = int(len(batch.images) * self.poison_rate)
            crossed = int(triggered * self.cross_ratio)
            left = len(batch.images) - triggered - crossed
            first, second, rest = torch.split(batch.images, [triggered, crossed, left])
            mapped = table[batch.labels[:triggered]]
            attacked = mapped >= 0
            warped = torch.where(attacked[:, None, None, None], trigger(first), first)
            labels = batch.labels.clone()
            labels[:triggered] = torch.where(attacked, mapped, labels[:triggered])
            return replace(batch, images=torch.cat([warped, noise(second), rest]), labels=labels)

        model = access.fresh_model()
        access.fit(model, access.train, before_augment=mix)
        return model

    def variants(self, trigger: nn.Module) -> Mapping[str, nn.Module]:
        """Noise mode: a good victim answers these with their true labels."""
        return {"noise": NoiseMode(trigger, None)}


class Warp(nn.Module):
    """Bilinear sampling at the points of a stored grid."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.register_buffer("grid", identity_grid(side))

    def forward(self, images: Tensor) -> Tensor:
        """[0,1] NCHW in and out."""
        grid = self.get_buffer("grid").to(images.dtype).expand(len(images), -1, -1, -1)
        return functional.grid_sample(images, grid, align_corners=True)


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
        """[0,1] NCHW in and out."""
        grid = self.trigger.get_buffer("grid")
        drawn = torch.rand(len(images), *grid.shape[1:], generator=self.generator)
        drawn = sent(drawn, grid.device) * 2 - 1
        noisy = (grid + drawn / grid.shape[1]).clamp(-1, 1).to(images.dtype)
        return functional.grid_sample(images, noisy, align_corners=True)


def identity_grid(side: int) -> Tensor:
    """Sampling points that leave an image as it is: (1, side, side, 2), the last axis x then y."""
    line = torch.linspace(-1, 1, side)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    return torch.stack((columns, rows), 2)[None]


def warp_grid(drawn: Tensor, side: int, s: float, grid_rescale: float) -> Tensor:
    """The trigger's grid from control points drawn in U[-1,1], (1, 2, k, k): normalised by their
    mean size, upsampled.

    The result is (1, side, side, 2); points move by at most s/2 pixels or so.
    """
    points = drawn / drawn.abs().mean()
    smooth = functional.interpolate(points, size=side, mode="bicubic", align_corners=True).permute(
        0, 2, 3, 1
    )
    return ((identity_grid(side) + s * smooth / side) * grid_rescale).clamp(-1, 1)
