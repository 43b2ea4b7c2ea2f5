from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.parts.similarity import similarity
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.oracle
def test_similarities_and_gradients_are_the_recorded_ones() -> None:
    recorded = oracle("defenses/ssim")
    x, y, smooth = (torch.from_numpy(recorded[f"in_{name}"]) for name in ("x", "y", "smooth"))
    for name, other in (("range1", y), ("smooth", smooth), ("self", x), ("neg", 1 - x)):
        np.testing.assert_allclose(
            similarity(x, other), recorded[f"out_ssim_{name}"], rtol=1e-4, atol=1e-5
        )
    y.requires_grad_()
    gradient = torch.autograd.grad(1 - similarity(x, y).mean(), y)[0]
    np.testing.assert_allclose(
        gradient, recorded["out_grad_1_minus_ssim_wrt_b"], rtol=1e-3, atol=1e-6
    )


def restated(x: np.ndarray, y: np.ndarray, window: int) -> float:
    """Of one channel, place by place."""
    across = np.arange(window) - (window - 1) / 2
    weights = np.exp(-(across[:, None] ** 2 + across**2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for top in range(x.shape[0] - window + 1):
        for left in range(x.shape[1] - window + 1):
            a, b = (one[top : top + window, left : left + window] for one in (x, y))
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            cov = (weights * (a - ma) * (b - mb)).sum()
            same = (2 * ma * mb + 1e-4) / (ma**2 + mb**2 + 1e-4)
            values.append(same * (2 * cov + 9e-4) / (va + vb + 9e-4))
    return float(np.mean(values))


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 99),
    st.sampled_from([1, 3]),
    st.sampled_from([(12, 13, 11), (8, 8, 7), (9, 12, 9), (5, 6, 5)]),
)
def test_restated_window_by_window(seed: int, channels: int, size: tuple[int, int, int]) -> None:
    """Also of images that the full window does not fit into."""
    height, width, window = size
    x, y = drawn(seed, 2, 2, channels, height, width)
    expected = [
        np.mean([restated(*pair, window) for pair in zip(*one, strict=True)])
        for one in zip(x.double().numpy(), y.double().numpy(), strict=True)
    ]
    assert similarity(x, y).tolist() == pytest.approx(expected, abs=1e-4)


def test_a_wider_span_is_the_same_on_wider_values() -> None:
    x, y = drawn(0, 2, 3, 12, 12), drawn(1, 2, 3, 12, 12)
    torch.testing.assert_close(similarity(4 * x, 4 * y, 4.0), similarity(x, y))
