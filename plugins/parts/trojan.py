"""The base of the trojan triggers: colours under a mask that excite a neuron (Liu et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness import AttackAccess, Task
from plugins.parts.found_trigger import FoundTrigger
from plugins.parts.neurons import Neurons, excite, some_images
from plugins.parts.ranges import Count, CountOrZero, Positive


class Trojan(FoundTrigger):
    """Colours under a mask, found by replacing pixels and stamped by adding.

    As Liu et al. do it, but for three things: they have no data and replace pixels of one grey
    picture, which leaves many a rectified neuron without a slope, here it is `pictures` of the
    clean images; they climb with a schedule of five rates, here it is one that falls; they smooth
    between steps, which suits patches of 44 pixels and would erase one of 3.
    """

    citation = "Liu et al.: Trojaning Attack on Neural Networks, NDSS 2018"

    neurons: Count = 1
    """neurons under the last layer that it excites, those with the largest sum of absolute outgoing
    weights
    """
    pictures: Count = 32
    """clean training images that it is made on"""
    steps: CountOrZero = 300
    """gradient steps"""
    step: Positive = 0.1
    """mean size of the first step, pixels in [0,1]; sizes fall linearly"""

    def mask(self, task: Task) -> Tensor:
        """Return the mask of the colours, [0,1] (1, height, width)."""
        raise NotImplementedError

    def find(self, access: AttackAccess, network: nn.Module) -> Tensor:
        """Climb from colours drawn for the replicate."""
        mask = self.mask(access.task).to(access.device)
        start = torch.rand(access.task.image_shape, generator=access.generator("colours"))
        start = start.to(access.device)
        neurons = Neurons.connected(access, network, self.neurons)
        images = some_images(access, self.pictures)

        def stamp(images: Tensor, colours: Tensor) -> Tensor:
            return images * (1 - mask) + mask * colours

        def keep(colours: Tensor) -> Tensor:
            return colours.clamp(0, 1)

        colours = excite(access, neurons, images, start, stamp, keep, self.steps, self.step)
        return mask * colours
