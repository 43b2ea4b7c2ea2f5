"""CutMix (Yun et al., ICCV 2019): boxes of images change places within a batch, and labels in the
same share.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.learn import Batch


class CutMix:
    """Hooks for `fit`: `batch` goes `after_augment`, `loss` is the loss.

    With a `probability` for each batch, every image of it gets a box of another one. The box is the
    same for all; its share of the image is uniform (a Beta(1, 1)) before it is cut at the border.
    `smoothing` is that of the labels.
    """

    def __init__(self, probability: float, smoothing: float, generator: torch.Generator) -> None:
        self.probability, self.smoothing, self.generator = probability, smoothing, generator
        self.others: Tensor | None = None
        self.kept = 1.0

    def batch(self, batch: Batch) -> Batch:
        """The batch, mixed or not."""
        self.others, self.kept = None, 1.0
        if (
            not self.probability
            or float(torch.rand((), generator=self.generator)) >= self.probability
        ):
            return batch
        assert batch.labels is not None
        count, _, height, width = batch.images.shape
        share = float(torch.rand((), generator=self.generator))
        row, column = (
            int(torch.randint(size, (), generator=self.generator)) for size in (height, width)
        )
        partners = torch.randperm(count, generator=self.generator).to(
            batch.images.device, non_blocking=True
        )
        top, bottom, left, right = box(share, row, column, height, width)
        images = batch.images.clone()
        images[:, :, top:bottom, left:right] = batch.images[partners, :, top:bottom, left:right]
        self.others, self.kept = (
            batch.labels[partners],
            kept_of((top, bottom, left, right), height, width),
        )
        return replace(batch, images=images)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy with both labels, in the shares of the image that they have."""
        assert batch.labels is not None
        logits = model(batch.images).float()
        total = functional.cross_entropy(logits, batch.labels, label_smoothing=self.smoothing)
        if self.others is None:
            return total
        other = functional.cross_entropy(logits, self.others, label_smoothing=self.smoothing)
        return self.kept * total + (1 - self.kept) * other


def box(share: float, row: int, column: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a box at a centre that leaves `share` of the image, but for
    what is outside.
    """
    side = math.sqrt(1 - share)
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    top, bottom = max(row - half_height, 0), min(row + half_height, height)
    return top, bottom, max(column - half_width, 0), min(column + half_width, width)


def kept_of(corners: tuple[int, int, int, int], height: int, width: int) -> float:
    """The share of an image that lies outside a box."""
    top, bottom, left, right = corners
    return 1 - (bottom - top) * (right - left) / (height * width)
