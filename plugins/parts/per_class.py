"""A few images of each class, which is what methods that look at a model from outside are content
with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.learn import ImageSet


def some_of_each(data: ImageSet, count: int | None, generator: torch.Generator) -> ImageSet:
    """Up to `count` random images of each class (none: all), in random order."""
    assert data.labels is not None
    order = torch.randperm(len(data), generator=generator)
    chosen = torch.zeros(len(data), dtype=torch.bool)
    chosen[of_each_class(data.labels.cpu(), count, order)] = True
    return data.subset(order[chosen[order]])


def of_each_class(
    labels: Tensor, count: int | None, order: Tensor | None = None, skip: int = 0
) -> Tensor:
    """Places (int64) of `count` images of each class that `labels` (int64, (n,)) hold; of a smaller
    class all.

    Class by class, within one in the order of `order` (a permutation; none: as they lie), after the
    first `skip`.
    """
    order = torch.arange(len(labels)) if order is None else order
    end = None if count is None else skip + count
    classes = sorted(set(labels.tolist()))
    return torch.cat([order[:0], *(order[labels[order] == label][skip:end] for label in classes)])
