"""l0-invisible: very few pixels, replaced by colours that excite the target's neurons.

Li et al. make triggers by optimisation on a clean network: they amplify the activation of chosen
neurons and keep the number of changed pixels small. The picture of Trap-and-Replace and I-BAU
replaces nine, at the end of the last row, each channel by either 0 or 255. No code was released, so
the rest is ours: the neurons are those of the last layer that speak for the target label, steps are
normalised gradients on clean images, saturation is their last step, and a place chosen by the
network is found by leaving out, round by round, the half of the pixels that the neurons hang on
least.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from harness import AttackAccess, Context, File, Task
from plugins.parts.found_trigger import FoundTrigger
from plugins.parts.neurons import Neurons, excite, some_images
from plugins.parts.patterns import read_pattern


class L0Invisible(FoundTrigger):
    """A few replaced pixels in saturated colours, made on a clean network (Li et al. 2021)."""

    citation = "Li et al.: Invisible Backdoor Attacks on Deep Neural Networks via Steganography and Regularization"

    pixels: Annotated[int, Field(ge=1)] = 9
    """how many pixels are replaced"""
    place: Literal["row", "salient"] = "row"
    """which: the last ones of the last row, as in the published picture; those that the neurons
    hang on most
    """
    mask: File | None = None
    """.npy file or picture of the images' size that says which pixels are replaced: those that are
    not black there; none: as `pixels` and `place` say, and with a `picture` those of the row
    """
    neurons: Annotated[int, Field(ge=1)] = 8
    """inputs of the last layer, those with the largest weight into the target label, that the
    trigger excites
    """
    pictures: Annotated[int, Field(ge=1)] = 128
    """clean training images that it is made on"""
    steps: Annotated[int, Field(ge=0)] = 100
    """gradient steps of each round; the last row has one round"""
    step: Annotated[float, Field(gt=0)] = 0.1
    """mean size of a round's first step, pixels in [0,1]; sizes fall linearly"""

    @model_validator(mode="after")
    def _looks_for_what_is_not_given(self) -> Self:
        if self.place == "salient" and (self.picture is not None or self.mask is not None):
            raise ValueError(
                'place = "salient" looks for pixels, and a picture or a mask has them already'
            )
        return self

    def compatible(self, context: Context) -> str | None:
        """The row must be long enough."""
        room = context.task.width * (context.task.height if self.place == "salient" else 1)
        if self.pixels > room and self.mask is None:
            return f"{self.pixels} pixels do not fit: there are {room}"
        return super().compatible(context)

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Which pixels, and their colours."""
        mask = self._laid_out(access.task).to(access.device)
        if self.picture is None:
            mask, light = self._search(access, access.part("benign"), mask)
        else:
            light = self.read(access)
        trigger.get_buffer("weight").copy_(mask)
        trigger.get_buffer("light").copy_(light)

    def _laid_out(self, task: Task) -> Tensor:
        """The pixels to begin with, 1 in (1, height, width)."""
        if self.mask is not None:
            return (read_pattern(self.mask, task) > 0).any(0, keepdim=True).float()
        if self.place == "salient":
            return torch.ones(1, task.height, task.width)
        mask = torch.zeros(1, task.height, task.width)
        mask[:, -1, -self.pixels :] = 1
        return mask

    def _search(
        self, access: AttackAccess, network: nn.Module, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pixels and colours: climb from random ones, leave out half of the pixels, climb again;
        then saturate.
        """
        neurons = Neurons.connected(access, network, self.neurons, self.target)
        images = some_images(access, self.pictures)
        drawn = torch.rand(access.task.image_shape, generator=access.generator("colours")).to(
            access.device
        )
        colours = self._climb(access, neurons, images, drawn, mask)
        while self.place == "salient" and (count := int(mask.sum())) > self.pixels:
            mask = strongest(neurons, images, colours, mask, max(self.pixels, count // 2))
            colours = self._climb(access, neurons, images, colours, mask)
        return mask, mask * (colours > 0.5)

    def _climb(
        self, access: AttackAccess, neurons: Neurons, images: Tensor, colours: Tensor, mask: Tensor
    ) -> Tensor:
        return excite(
            access,
            neurons,
            images,
            colours,
            lambda images, colours: images * (1 - mask) + mask * colours,
            lambda colours: colours.clamp(0, 1),
            self.steps,
            self.step,
        )


def strongest(
    neurons: Neurons, images: Tensor, colours: Tensor, mask: Tensor, count: int
) -> Tensor:
    """Of the pixels of a mask the `count` without which the neurons would lose most, by the slope
    in the mask.
    """
    shares = mask.clone().requires_grad_()
    stamped = images * (1 - shares) + shares * colours
    (slope,) = torch.autograd.grad(neurons.activation(stamped), shares)
    ranked = torch.where(mask > 0, slope, -torch.inf).flatten()
    kept = torch.argsort(ranked, descending=True, stable=True)[:count]
    return torch.zeros_like(ranked).index_fill(0, kept, 1).view_as(mask)
