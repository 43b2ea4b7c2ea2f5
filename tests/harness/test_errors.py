from __future__ import annotations

import pytest

from harness.errors import said


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("layer4"), "KeyError: 'layer4'"),
        (SystemExit(0), "SystemExit: 0"),
        (SystemExit(), "SystemExit"),
        (StopIteration(3), "StopIteration: 3"),
        (AssertionError(), "AssertionError"),
        (ValueError("rate is 2; at most 1 is expected"), "rate is 2; at most 1 is expected"),
    ],
)
def test_a_reason_makes_sense_alone(error: BaseException, reason: str) -> None:
    assert said(error) == reason
