"""Images that a defense sets aside of its own grant, to choose a setting by."""

from __future__ import annotations

import torch
from torch import nn

from harness import Access, Incompatible
from harness.learn import ImageSet, predict
from plugins.parts.counting import FORWARD


def hold_out(data: ImageSet, share: float, generator: torch.Generator) -> tuple[ImageSet, ImageSet]:
    """What is left to train on, and a random `share` of the images (one at least). Raises
    Incompatible if none is left.

    Drawn from the grant, because a defender has no other images: what is held out costs training
    images, as in life.
    """
    count = max(1, round(share * len(data)))
    if count >= len(data):
        raise Incompatible(
            f"holding out {count} of {len(data)} clean images leaves none to train on"
        )
    order = torch.randperm(len(data), generator=generator)
    return data.subset(order[count:]), data.subset(order[:count])


def accuracy(access: Access, model: nn.Module, data: ImageSet) -> float:
    """Share of labelled images that the model gets right, in evaluation mode and single precision.
    They are counted.
    """
    assert data.labels is not None
    found, _ = predict(model, data.images, device=access.device)
    access.tick(len(data) // FORWARD)
    return float((found == data.labels.cpu()).float().mean())
