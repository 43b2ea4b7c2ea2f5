"""A few images of each class, which is what methods that look at a model from outside are content with."""

from __future__ import annotations

import torch

from harness.learn.images import ImageSet


def some_of_each(data: ImageSet, count: int | None, generator: torch.Generator) -> ImageSet:
    """Up to `count` random images of each class (none: all), in random order."""
    assert data.labels is not None
    order = torch.randperm(len(data), generator=generator)
    labels, seen = data.labels.cpu().tolist(), dict[int, int]()
    chosen = []
    for place in order.tolist():
        seen[labels[place]] = seen.get(labels[place], 0) + 1
        if count is None or seen[labels[place]] <= count:
            chosen.append(place)
    return data.subset(torch.tensor(chosen, dtype=torch.int64))
