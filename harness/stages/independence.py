"""The check that a model's answer to an image depends on the image alone.

A sample of the stream is asked again by a process that has seen nothing else, in other company:
some images in pairs, the others among images that should get the same label. What one process
remembers, the other does not know; what it makes of its batch comes out differently.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SHARE = 16
"""One of so many images of a stream is in the sample."""
AT_LEAST = 256
"""Images of the sample at least, as far as there are so many test images."""
IN_PAIRS = 64
"""Images of the sample that are asked two at a time. They come first."""
GROUP = 32
"""Images of the others that are asked together; of large ones as many as go through at a time, but
two at least.
"""

ROUNDING = 1e-3
"""Largest difference between two logits for one image that counts as rounding, as a share of the
range of its logits.
"""
LAST_BITS = 16 * torch.finfo(torch.float32).eps
"""The same as a share of the largest of its logits: those that lie close together far from zero, or
a single one, are known no better than that.
"""
TIES = 0.01
"""Largest share of images whose label may change by rounding; one may in any case."""


class NotIndependent(RuntimeError):
    """A network whose answer to an image depends on something else than the image."""


def choose(
    places: Mapping[str, Tensor], expected: Mapping[str, Tensor], generator: torch.Generator
) -> Tensor:
    """Draw the sample of a stream: places, int64 (count), in the order in which they are asked.

    `places` and `expected` have for each set, clean and under each trigger, the place of every test
    image in the stream and the label that it should get there. A test image is in the sample once
    at most, clean or under one of the triggers: a model that remembers finds no twin in it.
    """
    stacked = torch.stack([places[name] for name in places])
    labels = torch.stack([expected[name] for name in places])
    sets, images = stacked.shape
    count = max(stacked.numel() // SHARE, AT_LEAST)
    image = torch.randperm(images, generator=generator)[:count]
    version = torch.randint(sets, (len(image),), generator=generator)
    pairs, others = slice(None, IN_PAIRS), slice(IN_PAIRS, None)
    by_label = labels[version[others], image[others]].argsort(stable=True)
    sample = stacked[version, image]
    return torch.cat([sample[pairs], sample[others][by_label]])


def check(first: Tensor, again: Tensor) -> None:
    """Raise NotIndependent unless logits (n, classes) that two processes got for the same images
    agree up to rounding.

    Both the logits and the labels must: a huge logit would make room for any others.
    """
    first, again = first.double(), again.double()  # in which the range of any logits is finite
    spread = first.amax(1) - first.amin(1)
    largest = (first - again).abs().amax(1)
    rounding = ROUNDING * spread + LAST_BITS * first.abs().amax(1)
    differing = int((largest > rounding).sum())
    changed = int((first.argmax(1) != again.argmax(1)).sum())
    if differing or changed > max(1, TIES * len(first)):
        raise NotIndependent(
            "the model's answer to an image depends on the images before it or beside it, "
            "or on chance: "
            f"of {len(first)} test images that were asked again in other company, "
            f"{differing} got other logits and {changed} another label"
        )
