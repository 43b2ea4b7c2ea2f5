from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import oracle

from plugins.parts.ssim import ssim

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.oracle
def test_similarities_and_gradients_are_those_of_the_library() -> None:
    recorded = oracle("defenses/ssim")
    close = {"rtol": float(recorded["tol_rtol"]), "atol": float(recorded["tol_atol"])}
    x, y, smooth = (torch.from_numpy(recorded[f"in_{name}"]) for name in ("x", "y", "smooth"))
    found = {
        "ssim_range1": ssim(x, y),
        "ssim_255": ssim(255 * x, 255 * y, span=255.0),
        "ssim_wrong_range": ssim(x, y, span=255.0),
        "ssim_smooth": ssim(x, smooth),
        "ssim_self": ssim(x, x),
        "ssim_neg": ssim(x, 1 - x),
        "ssim_win5": ssim(x, y, window=5),
    }
    for name, value in found.items():
        np.testing.assert_allclose(value, recorded[f"out_{name}"], err_msg=name, **close)
    y.requires_grad_()
    gradient = torch.autograd.grad(1 - ssim(x, y).mean(), y)[0]
    np.testing.assert_allclose(gradient, recorded["out_grad_1_minus_ssim_wrt_b"], **close)


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
@given(st.integers(0, 99), st.sampled_from([1, 3]), st.sampled_from([(6, 11), (7, 7), (12, 9)]))
def test_restated_window_by_window(seed: int, channels: int, size: tuple[int, int]) -> None:
    x, y = drawn(seed, 2, 2, channels, *size)
    expected = [
        np.mean([restated(*pair, 5) for pair in zip(*one, strict=True)])
        for one in zip(x.numpy(), y.numpy(), strict=True)
    ]
    assert ssim(x, y, window=5).tolist() == pytest.approx(expected)


def test_small_images_are_seen_whole() -> None:
    x, y = drawn(0, 2, 3, 1, 8, 8)
    assert ssim(x, y).tolist() == pytest.approx(ssim(x, y, window=8).tolist())
    assert ssim(x, x).tolist() == pytest.approx([1, 1, 1])
