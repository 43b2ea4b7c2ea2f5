"""Images that a defense sets aside of its own grant, to choose a setting by."""

from __future__ import annotations

import torch
from torch import nn

from harness import Access, Incompatible
from harness.learn import ImageSet, predict
from plugins.parts.counting import FORWARD


def hold_out(data: ImageSet, share: float, generator: torch.Generator) -> tuple[ImageSet, ImageSet]:
    """Split off a random `share` of the images, at least one; return the rest and the share.

    Drawn from the grant, because a defender has no other images: those held out are lost to
    training, as in practice. Raises Incompatible if none is left to train on.
    """
    count = max(1, round(share * len(data)))
    if count >= len(data):
        raise Incompatible(
            f"holding out {count} of {len(data)} clean images leaves none to train on"
        )
    order = torch.randperm(len(data), generator=generator)
    rest = data.subset(order[count:])
    held_out = data.subset(order[:count])
    return rest, held_out


def accuracy(access: Access, model: nn.Module, data: ImageSet) -> float:
    """Measure the share of labelled images that the model gets right, and count them.

    The model is in evaluation mode and works in single precision.
    """
    assert data.labels is not None
    predicted, _ = predict(model, data.images, device=access.device)
    access.tick(len(data) // FORWARD)
    correct = predicted == data.labels.cpu()
    return float(correct.float().mean())
