"""A few images of each class, which suffice for methods that look at a model from outside."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.learn import ImageSet


def some_of_each(data: ImageSet, count: int | None, generator: torch.Generator) -> ImageSet:
    """Draw up to `count` images of each class (none: all), in random order."""
    assert data.labels is not None
    order = torch.randperm(len(data), generator=generator)
    places = of_each_class(data.labels.cpu(), count, order)
    chosen = torch.zeros(len(data), dtype=torch.bool)
    chosen[places] = True
    in_order = chosen[order]
    return data.subset(order[in_order])


def of_each_class(
    labels: Tensor, count: int | None, order: Tensor | None = None, skip: int = 0
) -> Tensor:
    """Return the places (int64) of `count` images of each class in `labels` (int64, (n,)).

    Of a smaller class all. Class by class, within one in the order of `order` (a permutation; none:
    as they lie), after the first `skip`.
    """
    if order is None:
        order = torch.arange(len(labels))
    end = None
    if count is not None:
        end = skip + count
    places = [order[:0]]  # so that there is something to join where there is no class
    for label in sorted(set(labels.tolist())):
        of_class = order[labels[order] == label]
        places.append(of_class[skip:end])
    return torch.cat(places)
