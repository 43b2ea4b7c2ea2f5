"""The fast path against the plain loop of reference_loop.py: the same batches to the bit, results
within noise.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.learn.hooks import Batch, Hooks
from harness.learn.images import ImageSet
from harness.learn.training import fit
from tests.kit.reference_loop import Compared, batches, compared, signs, streams

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_order_and_augmentation_are_the_same_to_the_bit(mirror: bool, before: bool) -> None:
    """With and without a hook before augmentation, behind which pictures are floats by the time
    they are moved.
    """
    setting = dataclasses.replace(signs(train=300, test=10, epochs=2), mirror=mirror)
    seen: list[Batch] = []

    def look(batch: Batch) -> Batch:
        seen.append(batch)
        return batch

    data = ImageSet(torch.from_numpy(setting.images), torch.from_numpy(setting.labels))
    hooks = Hooks(before_augment=(lambda batch: batch) if before else None, after_augment=look)
    fit(setting.network(0), data, setting.recipe, generator=streams(0), hooks=hooks)
    order, moves = streams(0)("order"), streams(0)("augment")
    wanted = [pair for _ in range(2) for pair in batches(setting, order, moves)]
    assert len(seen) == len(wanted) == 6
    for batch, (places, pictures) in zip(seen, wanted, strict=True):
        assert torch.equal(batch.indices, places)
        assert torch.equal(batch.images, pictures)
        assert batch.labels is not None
        assert torch.equal(batch.labels, torch.from_numpy(setting.labels)[places])


def test_a_short_run_in_single_precision_ends_alike() -> None:
    """Slow enough that rounding has not grown much yet, long enough to have learned something."""
    setting = dataclasses.replace(signs(train=600, test=400, epochs=4), precision="fp32", lr=0.02)
    found = compared(setting, seeds=range(1))
    assert found["ACC"].plain[0] > 15
    assert all(one.apart <= 3 for one in found.values())


@pytest.mark.slow
def test_five_seeds_agree_within_their_noise() -> None:
    for name, found in compared(signs()).items():
        assert found.alike, (name, found)


def test_the_criterion_tells_apart() -> None:
    assert Compared([90, 91, 92], [90.5, 91.5, 92.5], 0.1).alike
    assert not Compared([90, 91, 92], [92, 93, 94], 0.1).alike
    assert Compared([100, 100, 100], [100, 100, 99.9], 0.1).alike
