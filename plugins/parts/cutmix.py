"""CutMix (Yun et al., ICCV 2019): images of a batch exchange boxes, and labels as large a share."""

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
        self.probability = probability
        self.smoothing = smoothing
        self.generator = generator
        self.others: Tensor | None = None
        """Labels of the images that the boxes of the latest batch come from; none: not mixed."""
        self.kept = 1.0
        """Share of an image of the latest batch that is its own."""

    def batch(self, batch: Batch) -> Batch:
        """Return the batch, mixed or not."""
        self.others = None
        self.kept = 1.0
        if not self.probability or self._uniform() >= self.probability:
            return batch
        assert batch.labels is not None
        count, _, height, width = batch.images.shape
        share = self._uniform()
        row = int(torch.randint(height, (), generator=self.generator))
        column = int(torch.randint(width, (), generator=self.generator))
        partners = torch.randperm(count, generator=self.generator)
        partners = partners.to(batch.images.device, non_blocking=True)
        corners = box(share, row, column, height, width)
        top, bottom, left, right = corners
        images = batch.images.clone()
        images[:, :, top:bottom, left:right] = batch.images[partners, :, top:bottom, left:right]
        self.others = batch.labels[partners]
        self.kept = kept_of(corners, height, width)
        return replace(batch, images=images)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the cross-entropy with both labels, in the shares of the image that they have."""
        assert batch.labels is not None
        logits = model(batch.images).float()
        own = functional.cross_entropy(logits, batch.labels, label_smoothing=self.smoothing)
        if self.others is None:
            return own
        other = functional.cross_entropy(logits, self.others, label_smoothing=self.smoothing)
        return self.kept * own + (1 - self.kept) * other

    def _uniform(self) -> float:
        return float(torch.rand((), generator=self.generator))


def box(share: float, row: int, column: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of a box at a centre that leaves `share` of the image.

    It leaves more where a part of it would lie outside, which is cut off.
    """
    side = math.sqrt(1 - share)
    half_height = int(height * side) // 2
    half_width = int(width * side) // 2
    top = max(row - half_height, 0)
    bottom = min(row + half_height, height)
    left = max(column - half_width, 0)
    right = min(column + half_width, width)
    return top, bottom, left, right


def kept_of(corners: tuple[int, int, int, int], height: int, width: int) -> float:
    """Return the share of an image that lies outside a box."""
    top, bottom, left, right = corners
    covered = (bottom - top) * (right - left)
    return 1 - covered / (height * width)
