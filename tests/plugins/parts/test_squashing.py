from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plugins.parts.squashing import SLACK, squash, unsquash


@given(st.floats(-30, 30), st.sampled_from([SLACK, 0.0, -SLACK]))
def test_the_mapping_restated(free: float, slack: float) -> None:
    found = float(squash(torch.tensor(free, dtype=torch.float64), slack))
    assert found == pytest.approx(math.tanh(free) / (2 - slack) + 0.5, abs=1e-12)


@given(st.floats(0, 1))
def test_the_way_back_is_finite_and_leads_here(pixel: float) -> None:
    pixels = torch.tensor([0.0, pixel, 1.0], dtype=torch.float64)
    free = unsquash(pixels)
    assert torch.isfinite(free).all()
    torch.testing.assert_close(squash(free), pixels, atol=1e-9, rtol=0)


def test_a_negative_slack_keeps_0_and_1_out_of_reach() -> None:
    ends = squash(torch.tensor([-40.0, 40.0], dtype=torch.float64), -SLACK)
    assert 0 < float(ends[0]) < float(ends[1]) < 1
