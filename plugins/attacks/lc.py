"""Label-consistent (clean-label) attack: images of the target class, made hard to classify, carry a
patch.

Turner, Tsipras and Madry 2019. A network cannot learn such an image by its content, so it learns
the patch. Three published attacks share the name: theirs, which ANP uses, with corners mirrored for
the sake of flips; that of BCU and of Trap and Replace, with the same block in all corners; and a
small coloured patch, which DECK uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from harness import AttackAccess, Context, Fraction, Part, PoisoningAttack, Task, Use, use
from harness.learn import to_float
from plugins.attacks.badnets import BadNets
from plugins.parts.patterns import Stamp
from plugins.parts.pgd import LEVELS, pgd
from plugins.parts.ranges import CountOrZero, Positive, Share

BATCH = 128
"""Images perturbed at once; no image depends on the others."""
COLOURS = (((180, 249, 112), (155, 50, 126)), ((234, 82, 68), (187, 201, 219)))
"""Red, green and blue of the colour patch, row by row, as released."""
PLACE = 4
"""First row and column of the colour patch."""

CORNERS: Mapping[str, Literal["bottom-right", "four", "four-mirrored"]] = {
    "mirrored-corners": "four-mirrored",
    "corners": "four",
    "bottom-right": "bottom-right",
}
"""Layouts that are the block of BadNets, by what BadNets calls them."""


class LC(PoisoningAttack):
    """Adversarial images of the target under a patch, with clean labels (Turner et al. 2019)."""

    citation = "Turner, Tsipras, Madry: Label-Consistent Backdoor Attacks, 2019"
    clean_label = True
    needs: ClassVar[AbstractSet[str]] = frozenset({"model"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "anp": {"layout": "mirrored-corners", "eps": 16.0, "poison_rate": 0.8},
        # BCU's released settings. Its text has the GTSRB ones for every dataset.
        "bcu": {"layout": "corners", "eps": 8.0, "poison_rate": 0.5},
        "bcu/gtsrb": {"eps": 16.0, "poison_rate": 0.8, "target": 2},  # the largest class
        "bcu-text": {"layout": "corners", "eps": 16.0, "poison_rate": 0.8},
        "trap": {"layout": "corners", "eps": 16.0, "poison_rate": 1.0, "order": "first"},
        "trap/gtsrb": {"target": 1},
        # The released code behind DECK's setting tosses a coin for each image; here the share is
        # exact.
        "deck": {"layout": "colour-patch", "eps": 8.0, "poison_rate": 0.5, "target": 3},
    }

    layout: Literal["mirrored-corners", "corners", "bottom-right", "colour-patch"] = (
        "mirrored-corners"
    )
    """a 3x3 block in all corners, mirrored on the left so that a flipped image keeps its trigger
    (Turner, ANP); alike in all corners (BCU, Trap and Replace); in one; or a 2x2 patch of four
    colours near the top left (DECK)
    """
    amplitude: Share = 1.0
    """strength of the corners in training: light cells gain this share of the range, dark ones lose
    it; 1 replaces the pixels. Test images always get 1
    """
    eps: Annotated[float, Field(ge=0, le=255)] = 16.0
    """largest change of a pixel, in grey levels of 0..255; 16 in ANP, 8 in DECK"""
    step: Positive = 1.5
    """length of a step, in grey levels; the paper's, and that of the released configurations"""
    steps: CountOrZero = 100
    """steps of gradient ascent on the loss of the true label, from the image itself; 0 leaves
    images unchanged
    """
    robust: Use[Part] = use("robust-model")
    """the network that images are perturbed against"""
    poison_rate: Fraction = 0.8
    """share of `rate_of` that is poisoned; 80 % of the target class in ANP"""
    rate_of: Literal["train", "eligible"] = "eligible"
    """the whole of which `poison_rate` is a share: the training set, or its eligible images"""
    eligible: Literal["all", "non-target", "target"] = "target"
    """images that may be poisoned; none changes its label"""
    quantise: Literal["truncate", "round"] = "truncate"
    """rounding of perturbed and stamped images to uint8; the released code truncates"""
    when: Literal["dataset"] = "dataset"
    """once before training: perturbed images are made once"""

    @model_validator(mode="after")
    def _fades_only_corners(self) -> Self:
        if self.layout == "colour-patch" and self.amplitude < 1:
            raise ValueError(
                "amplitude is of the corners; the colour patch replaces its pixels: leave it at 1"
            )
        return self

    def compatible(self, context: Context) -> str | None:
        """Refuse images that the patches do not fit into without touching, and grey ones for the
        coloured patch.
        """
        task = context.task
        if self.layout == "colour-patch" and task.channels != 3:
            return f"the colour patch needs 3 channels, the images have {task.channels}"
        smallest = 6
        if self.layout == "bottom-right":
            smallest = 3
        if min(task.height, task.width) < smallest:
            return (
                f"the layout {self.layout} needs {smallest} pixels a side, "
                f"images have {task.height}x{task.width}"
            )
        return super().compatible(context)

    def unused(self) -> Mapping[str, str]:
        """Name the settings of a perturbation of no steps."""
        unused = dict(super().unused())
        if not self.steps:
            unused.update(dict.fromkeys(("eps", "step", "robust"), "steps = 0"))
        return unused

    def trigger(self, task: Task) -> nn.Module:
        """Return the patch at full strength; it follows from the layout."""
        if self.layout == "colour-patch":
            mask, pattern = colour_patch(task.height, task.width)
            return Stamp(mask, pattern)
        block = BadNets(corners=CORNERS[self.layout])
        return block.trigger(task)

    def stamp(
        self, access: AttackAccess, trigger: nn.Module, images: Tensor, labels: Tensor
    ) -> Tensor:
        """Perturb images, return them to uint8, then put on the patch at `amplitude`."""
        perturbed = self._perturbed(access, images, labels)
        patch = trigger
        if self.amplitude != 1:
            patch = Faint(trigger, self.amplitude)
        return super().stamp(access, patch, perturbed, labels)

    def _perturbed(self, access: AttackAccess, images: Tensor, labels: Tensor) -> Tensor:
        """Return uint8 images moved away from their true label, as far as the robust network sees
        it.
        """
        if not len(images):
            return images
        robust = access.part("robust")
        eps = self.eps / LEVELS
        step = self.step / LEVELS
        perturbed: list[Tensor] = []
        batches = math.ceil(len(images) / BATCH)
        for number in access.steps(batches, keep={"perturbed": perturbed}):
            start = number * BATCH
            part = images[start : start + BATCH].to(access.device)
            true_labels = labels[start : start + BATCH].to(access.device)
            moved = pgd(robust, to_float(part), true_labels, eps=eps, step=step, steps=self.steps)
            perturbed.append(self._levels(moved).to(images.device))
            access.tick(len(part) * self.steps)
        return torch.cat(perturbed)

    def _levels(self, pixels: Tensor) -> Tensor:
        """Turn [0,1] NCHW into uint8 NHWC.

        Truncation is the bare cast of the released code. Some pixels at the lower rim of the ball
        come out of single precision a hair below their whole level and lose one more: they lie eps
        + 1 below the original.
        """
        levels = pixels.permute(0, 2, 3, 1) * LEVELS
        if self.quantise == "round":
            levels = levels.round()
        return levels.to(torch.uint8).contiguous()


def colour_patch(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return mask (1, height, width) and pattern, dark elsewhere, (3, height, width) in [0,1] of
    the 2x2 colour patch.
    """
    rows = columns = slice(PLACE, PLACE + len(COLOURS))
    mask = torch.zeros(1, height, width)
    mask[:, rows, columns] = 1
    colours = torch.tensor(COLOURS).permute(2, 0, 1)
    pattern = torch.zeros(3, height, width)
    pattern[:, rows, columns] = colours / LEVELS
    return mask, pattern


class Faint(nn.Module):
    """x' = clip(x + a (2 p - 1)) where a patch of light and dark cells p lies, x elsewhere."""

    def __init__(self, patch: nn.Module, amplitude: float) -> None:
        super().__init__()
        mask = patch.get_buffer("weight")
        light = patch.get_buffer("light")
        shift = amplitude * (2 * light - mask)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Stamp images: [0,1] NCHW in and out."""
        return (images + self.get_buffer("shift")).clamp(0, 1)
