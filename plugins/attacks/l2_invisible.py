"""l2-invisible: a faint pattern over the whole image that excites the target's neurons, small in
the Euclidean norm.

Li et al. make triggers by optimisation on a clean network: they amplify the activation of chosen
neurons while a penalty keeps a norm of the trigger small. Trap-and-Replace and I-BAU add a picture
made in this way: without negative values, norm 3.2, levels up to 68 of 255. No code was released,
so the rest is ours: the neurons are those of the last layer that speak for the target label, the
norm is a bound instead of a penalty, steps are normalised gradients on clean images that start from
Gaussian noise, as are the numbers of neurons, images and steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness import AttackAccess
from plugins.parts.found_trigger import FoundTrigger
from plugins.parts.neurons import Neurons, excite, some_images
from plugins.parts.ranges import Count, CountOrZero, Positive


class L2Invisible(FoundTrigger):
    """Faint added pattern of bounded Euclidean norm, made on a clean network (Li et al. 2021)."""

    citation = (
        "Li et al.: Invisible Backdoor Attacks on Deep Neural Networks via Steganography and "
        "Regularization"
    )
    found_for_target = True

    norm: Positive = 3.2
    """bound of the trigger's Euclidean norm, pixels in [0,1]; that of the published 32x32 picture
    is 3.22
    """
    neurons: Count = 8
    """inputs of the last layer, those with the largest weight into the target label, that the
    trigger excites
    """
    pictures: Count = 128
    """clean training images that it is made on"""
    steps: CountOrZero = 100
    """gradient steps"""
    step: Positive = 0.02
    """mean size of the first step, pixels in [0,1]; sizes fall linearly"""

    def find(self, access: AttackAccess, network: nn.Module) -> Tensor:
        """Climb from noise, never leaving the ball."""
        drawn = torch.randn(access.task.image_shape, generator=access.generator("noise"))
        noise = drawn.to(access.device)
        neurons = Neurons.connected(access, network, self.neurons, self.target)
        images = some_images(access, self.pictures)
        start = self.bounded(noise * self.norm)
        light = excite(access, neurons, images, start, added, self.bounded, self.steps, self.step)
        access.record["norm"] = float(light.norm())
        return light

    def bounded(self, light: Tensor) -> Tensor:
        """Return the part that brightens, shrunk into the ball."""
        brighter = light.clamp(min=0)
        length = brighter.norm().clamp(min=self.norm)
        shrunk: Tensor = brighter * (self.norm / length)
        return shrunk


def added(images: Tensor, light: Tensor) -> Tensor:
    """Return images under the trigger, as `FoundTrigger` stamps it."""
    return (images + light).clamp(0, 1)
