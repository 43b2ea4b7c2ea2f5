from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stages.sampling import stratified


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 5), max_size=60), st.integers(0, 2**32))
def test_every_prefix_holds_the_classes_in_their_proportions(labels: list[int], seed: int) -> None:
    """There is one share of which every class has its part, give or take less than one picture."""
    array = np.array(labels, dtype=np.int64)
    order = stratified(array, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(labels)))
    classes, sizes = np.unique(array, return_counts=True)
    for length in range(len(labels) + 1):
        counts = np.array([(array[order[:length]] == label).sum() for label in classes])
        if length:
            assert ((counts - 1) / sizes).max() <= ((counts + 1) / sizes).min() + 1e-12
        for size in set(sizes.tolist()):
            alike = counts[sizes == size]
            assert alike.max() - alike.min() <= 1


def test_orders_are_random_within_and_between_classes() -> None:
    labels = np.repeat(np.arange(4), 10)
    orders = [stratified(labels, np.random.default_rng(seed)) for seed in range(200)]
    first = np.bincount([order[0] for order in orders], minlength=40)
    assert (first > 0).sum() > 30  # every picture may come first
    assert stratified(labels, np.random.default_rng(5)).tolist() == orders[5].tolist()
