from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness.access.context import Coordinates
from harness.stages import grant
from harness.stages.payloads import GrantPayload
from tests.kit.numbered import job, numbered


@dataclass(frozen=True)
class Pool:
    """A pool of 40 numbered pictures, and the stage that grants some of them."""

    folder: Path

    def __call__(
        self, count: int, *, labelled: bool = True, replicate: int = 0
    ) -> tuple[list[int], list[int]]:
        out = self.folder / f"{count}-{labelled}-{replicate}"
        out.mkdir()
        at = Coordinates(replicate, "numbered", "grant", "")
        grant.run(job(out, GrantPayload(at, "pool", count, labelled), self.folder))
        return numbered(out / "images.safetensors")


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    numbers = np.arange(40, dtype="<u2")
    (tmp_path / "data").mkdir()
    arrays: dict[str, Any] = {
        "images": numbers.view(np.uint8).reshape(40, 1, 2, 1).copy(),
        "labels": numbers.astype(np.int64) % 4,
    }
    save_file(arrays, tmp_path / "data" / "pool.safetensors")
    return Pool(tmp_path)


def test_a_smaller_grant_is_the_beginning_of_a_larger_one(pool: Pool) -> None:
    small, large = pool(5), pool(20)
    assert large[0][:5] == small[0]
    assert large[1] == [number % 4 for number in large[0]]
    assert np.bincount(large[1]).tolist() in ([5, 5, 5, 5], *itertools.permutations([5, 5, 4, 6]))


def test_a_grant_without_labels_is_the_same_pictures(pool: Pool) -> None:
    labelled, blind = pool(12), pool(12, labelled=False)
    assert blind == (labelled[0], [])


def test_each_defense_seed_has_an_order_of_its_own(pool: Pool) -> None:
    orders = [pool(40, replicate=replicate)[0] for replicate in range(3)]
    assert len({json.dumps(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(40)) for order in orders)
