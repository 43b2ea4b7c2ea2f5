from __future__ import annotations

from typing import Any

import pytest

from harness.stages.splits import sizes
from tests.kit.numbered import UNSPLIT


@pytest.mark.parametrize(
    ("params", "complaint"),
    [
        ({"take": 61}, "take = 61, but there are 60 training images"),
        ({"take_test": 31}, "take_test = 31, but there are 30 test images"),
        (
            {"pool": 60},
            "pool and validation hold back 60 of 60 training images: none is left to train on",
        ),
        ({"pool": 30, "validation": 10, "take": 40}, "hold back 40 of 40 training images"),
        ({"pool": 60, "pool_in_train": True}, "hold back 60 of 60"),
        ({"validation": 60, "pool_from": "test"}, "hold back 60 of 60"),
        (
            {"pool": 30, "pool_from": "test"},
            "the pool holds back 30 of 30 test images: none is left to test on",
        ),
    ],
)
def test_splits_that_leave_nothing(params: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        sizes({**UNSPLIT, **params}, 60, 30)
