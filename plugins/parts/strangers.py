"""Other training images beside those of a batch, for methods that compare or mix images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness import Recipe
from harness.learn import augment, to_float


class Strangers:
    """A second pass over the training images, shuffled and augmented by itself: other images to go
    with a batch's.
    """

    def __init__(self, images: Tensor, recipe: Recipe, generator: torch.Generator) -> None:
        """Take uint8 images (n, height, width, channels), on the device."""
        self.images = images
        self.recipe = recipe
        self.generator = generator
        self.left = torch.empty(0, dtype=torch.int64)

    def state_dict(self) -> dict[str, Any]:
        """Return where the pass is; the generator is not in it."""
        return {"left": self.left}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.left = state["left"]

    def take(self, count: int) -> Tensor:
        """Return the next `count` images, [0,1] NCHW; a new order follows on the last."""
        while len(self.left) < count:
            order = torch.randperm(len(self.images), generator=self.generator)
            self.left = torch.cat([self.left, order])
        chosen = self.left[:count]
        self.left = self.left[count:]
        there = chosen.to(self.images.device, non_blocking=True)
        images = to_float(self.images.index_select(0, there))
        return augment(images, self.recipe, self.generator)
