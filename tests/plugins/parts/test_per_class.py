from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.learn.images import ImageSet
from plugins.parts.per_class import of_each_class, some_of_each


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40),
    st.integers(1, 5),
    st.integers(0, 3),
    st.randoms(),
)
def test_the_first_of_each_class(labels: list[int], count: int, skip: int, chance: Any) -> None:
    order = list(range(len(labels)))
    chance.shuffle(order)
    wanted: list[int] = []
    for label in sorted(set(labels)):
        wanted += [place for place in order if labels[place] == label][skip : skip + count]
    assert of_each_class(torch.tensor(labels), count, torch.tensor(order), skip).tolist() == wanted


def test_in_dataset_order_without_another() -> None:
    labels = torch.tensor([2, 0, 2, 0, 2])
    assert of_each_class(labels, 2).tolist() == [1, 3, 0, 2]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 4), st.integers(0, 9))
def test_some_are_the_first_of_each_class_in_a_random_order(
    labels: list[int], count: int, seed: int
) -> None:
    data = ImageSet(
        torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1), torch.tensor(labels)
    )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    wanted = [
        place
        for rank, place in enumerate(order)
        if [labels[one] for one in order[:rank]].count(labels[place]) < count
    ]
    found = some_of_each(data, count, torch.Generator().manual_seed(seed))
    assert found.images.flatten().tolist() == wanted
    assert len(some_of_each(data, None, torch.Generator())) == len(labels)
