"""What the trojan triggers share: colours under a mask that excite a neuron of a clean network (Liu
et al. 2018).
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from harness import AttackAccess, Task
from plugins.parts.found_trigger import FoundTrigger
from plugins.parts.neurons import Neurons, excite, some_images


class Trojan(FoundTrigger):
    """Colours under a mask, found by replacing pixels and stamped by adding.

    As Liu et al. do it, but for three things: they have no data and replace pixels of one grey
    picture, which leaves many a rectified neuron without a slope, here it is `pictures` of the
    clean images; they climb with a schedule of five rates, here it is one that falls; they smooth
    between steps, which suits patches of 44 pixels and would erase one of 3.
    """

    citation = "Liu et al.: Trojaning Attack on Neural Networks, NDSS 2018"

    neurons: Annotated[int, Field(ge=1)] = 1
    """neurons under the last layer that it excites, those with the largest sum of absolute weights
    out of them
    """
    pictures: Annotated[int, Field(ge=1)] = 32
    """clean training images that it is made on"""
    steps: Annotated[int, Field(ge=0)] = 300
    """gradient steps"""
    step: Annotated[float, Field(gt=0)] = 0.1
    """mean size of the first step, pixels in [0,1]; sizes fall linearly"""

    def mask(self, task: Task) -> Tensor:
        """Where the colours lie, [0,1] (1, height, width)."""
        raise NotImplementedError

    def find(self, access: AttackAccess, network: nn.Module) -> Tensor:
        """Climb from colours drawn for the replicate."""
        mask = self.mask(access.task).to(access.device)
        drawn = torch.rand(access.task.image_shape, generator=access.generator("colours")).to(
            access.device
        )
        colours = excite(
            access,
            Neurons.connected(access, network, self.neurons),
            some_images(access, self.pictures),
            drawn,
            lambda images, colours: images * (1 - mask) + mask * colours,
            lambda colours: colours.clamp(0, 1),
            self.steps,
            self.step,
        )
        return mask * colours
