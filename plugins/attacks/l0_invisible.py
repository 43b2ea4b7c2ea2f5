"""l0-invisible: very few pixels, replaced by colours that excite the target's neurons.

Li et al. make triggers by optimisation on a clean network: they amplify the activation of chosen
neurons and keep the number of changed pixels small. The picture of Trap-and-Replace and I-BAU
replaces nine, at the end of the last row, each channel by either 0 or 255. No code was released, so
the rest is ours: the neurons are those of the last layer that speak for the target label, steps are
normalised gradients on clean images, saturation is their last step, and a place chosen by the
network is found by leaving out, round by round, the half of the pixels that the neurons depend on
least.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from harness import AttackAccess, Context, File, Task
from plugins.parts.found_trigger import FoundTrigger
from plugins.parts.neurons import Neurons, excite, some_images
from plugins.parts.patterns import read_pattern
from plugins.parts.ranges import Count, CountOrZero, Positive


class L0Invisible(FoundTrigger):
    """A few replaced pixels in saturated colours, made on a clean network (Li et al. 2021)."""

    citation = (
        "Li et al.: Invisible Backdoor Attacks on Deep Neural Networks via Steganography and "
        "Regularization"
    )
    found_for_target = True

    pixels: Count = 9
    """number of replaced pixels"""
    place: Literal["row", "salient"] = "row"
    """place of these pixels: the end of the last row, as in the published picture; those that the
    neurons depend on most
    """
    mask: File | None = None
    """.npy file or picture of the images' size that says which pixels are replaced: those that are
    not black there; none: as `pixels` and `place` say, and with a `picture` those of the row
    """
    neurons: Count = 8
    """inputs of the last layer, those with the largest weight into the target label, that the
    trigger excites
    """
    pictures: Count = 128
    """clean training images that it is made on"""
    steps: CountOrZero = 100
    """gradient steps of each round; the last row has one round"""
    step: Positive = 0.1
    """mean size of a round's first step, pixels in [0,1]; sizes fall linearly"""

    @model_validator(mode="after")
    def _looks_for_what_is_not_given(self) -> Self:
        if self.place == "salient" and (self.picture is not None or self.mask is not None):
            raise ValueError(
                'place = "salient" looks for pixels, and a picture or a mask has them already'
            )
        return self

    def compatible(self, context: Context) -> str | None:
        """Refuse images with too few pixels, in the last row or at all."""
        room = context.task.width
        if self.place == "salient":
            room = room * context.task.height
        if self.pixels > room and self.mask is None:
            return f"{self.pixels} pixels do not fit: there are {room}"
        return super().compatible(context)

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Choose pixels, and find or read their colours."""
        mask = self._laid_out(access.task).to(access.device)
        if self.picture is None:
            mask, light = self._search(access, access.part("benign"), mask)
        else:
            light = self.read(access)
        trigger.get_buffer("weight").copy_(mask)
        trigger.get_buffer("light").copy_(light)

    def _laid_out(self, task: Task) -> Tensor:
        """Return the pixels to begin with, 1 in (1, height, width)."""
        if self.mask is not None:
            bright = read_pattern(self.mask, task) > 0
            return bright.any(0, keepdim=True).float()
        if self.place == "salient":
            return torch.ones(1, task.height, task.width)
        mask = torch.zeros(1, task.height, task.width)
        mask[:, -1, -self.pixels :] = 1
        return mask

    def _search(
        self, access: AttackAccess, network: nn.Module, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return pixels and colours: climb from random ones, leave out half of the pixels, climb
        again; then saturate.
        """
        neurons = Neurons.connected(access, network, self.neurons, self.target)
        images = some_images(access, self.pictures)
        drawn = torch.rand(access.task.image_shape, generator=access.generator("colours"))
        colours = self._climb(access, neurons, images, drawn.to(access.device), mask)
        if self.place == "salient":
            count = int(mask.sum())
            while count > self.pixels:
                count = max(self.pixels, count // 2)
                mask = strongest(neurons, images, colours, mask, count)
                colours = self._climb(access, neurons, images, colours, mask)
        saturated = colours > 0.5
        return mask, mask * saturated

    def _climb(
        self, access: AttackAccess, neurons: Neurons, images: Tensor, colours: Tensor, mask: Tensor
    ) -> Tensor:
        """Return colours, under the mask, that excite the neurons more than the given ones."""

        def covered(images: Tensor, colours: Tensor) -> Tensor:
            return images * (1 - mask) + mask * colours

        def within_range(colours: Tensor) -> Tensor:
            return colours.clamp(0, 1)

        return excite(
            access, neurons, images, colours, covered, within_range, self.steps, self.step
        )


def strongest(
    neurons: Neurons, images: Tensor, colours: Tensor, mask: Tensor, count: int
) -> Tensor:
    """Return a mask of the `count` pixels of `mask` without which the neurons would lose most, by
    the slope in the mask.
    """
    shares = mask.clone().requires_grad_()
    stamped = images * (1 - shares) + shares * colours
    activation = neurons.activation(stamped)
    (slope,) = torch.autograd.grad(activation, shares)
    gains = torch.where(mask > 0, slope, -torch.inf).flatten()
    best_first = torch.argsort(gains, descending=True, stable=True)
    kept = torch.zeros_like(gains)
    return kept.index_fill(0, best_first[:count], 1).view_as(mask)
