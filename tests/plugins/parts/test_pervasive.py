from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from plugins.parts import pervasive
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")


# --- recorded -------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_gamma_and_its_loss_are_those_of_the_formula() -> None:
    recorded = oracle("defenses/deck_gamma")
    close = {"rtol": float(recorded["tol_rtol"]), "atol": float(recorded["tol_atol"])}
    assert float(recorded["par_eps_added_to_sigma"]) == pervasive.EPSILON
    levels = torch.from_numpy(recorded["in_x"])
    mean = torch.from_numpy(recorded["in_mu_b"])
    deviation = torch.from_numpy(recorded["in_sigma_b"])
    means, deviations = pervasive.moments(levels)
    np.testing.assert_allclose(means, recorded["out_mu"], **close)
    np.testing.assert_allclose(deviations, recorded["out_sigma_population"], **close)
    standard = pervasive.standardised(levels)
    changed = pervasive.gamma(standard[None], mean[None], deviation[None])
    np.testing.assert_allclose(changed[0], recorded["out_y"], **close)
    usual = (means.mean(0)[None], deviations.mean(0)[None])
    far = pervasive.unusual(mean[None], deviation[None], usual)
    np.testing.assert_allclose(far[0], recorded["out_L_norm"], **close)


@pytest.mark.oracle
def test_psi_is_that_of_the_formula() -> None:
    recorded = oracle("defenses/deck_psi")
    close = {"rtol": float(recorded["tol_rtol"]), "atol": float(recorded["tol_atol"])}
    features = torch.from_numpy(recorded["in_a"])[None]
    kernels = torch.from_numpy(recorded["in_U"])[None]
    changed = pervasive.psi(features, kernels)[0]
    np.testing.assert_allclose(changed, recorded["out_psi_region_padding"], **close)
    whole = pervasive.psi(features, kernels[:, :1, :1])[0]
    np.testing.assert_allclose(whole, recorded["out_psi_z1"], **close)
    same = pervasive.identity(int(recorded["par_z"]), features.shape[2], int(recorded["par_m"]))
    np.testing.assert_array_equal(same, recorded["out_identity_kernels"])


# --- restated -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 3]), st.booleans())
def test_psi_restated_region_by_region(lanes: int, z: int, m: int, has_bias: bool) -> None:
    draw = torch.Generator().manual_seed(lanes)
    features = torch.randn(lanes, 2, 4, 2 * z, 3 * z, generator=draw, dtype=torch.float64)
    kernels = torch.randn(lanes, z, z, 4, 4, m, m, generator=draw, dtype=torch.float64)
    bias = torch.randn(lanes, z, z, 4, generator=draw, dtype=torch.float64)
    changed = pervasive.psi(features, kernels, bias if has_bias else None)
    for lane in range(lanes):
        for row in range(z):
            for column in range(z):
                rows = slice(2 * row, 2 * row + 2)
                columns = slice(3 * column, 3 * column + 3)
                region = features[lane, :, :, rows, columns]
                made = functional.conv2d(region, kernels[lane, row, column], padding=m // 2)
                if has_bias:
                    made = made + bias[lane, row, column].view(-1, 1, 1)
                torch.testing.assert_close(changed[lane, :, :, rows, columns], made)


def test_psi_of_the_identity_changes_nothing() -> None:
    features = torch.randn(2, 3, 8, 6, 6)
    kernels = pervasive.identity(3, 8, 3).expand(2, -1, -1, -1, -1, -1, -1)
    torch.testing.assert_close(pervasive.psi(features, kernels), features)
    with pytest.raises(ValueError, match="features of 6 x 6 do not fall into 4 x 4 regions"):
        pervasive.psi(features, pervasive.identity(4, 8, 3)[None].expand(2, *[-1] * 6))


def test_gamma_gives_all_pictures_the_same_statistics() -> None:
    levels = 255 * torch.rand(2, 5, 3, 8, 8)
    levels[0, 0, 1] = 7  # a channel of one level
    standard = pervasive.standardised(levels.flatten(0, 1)).view_as(levels)
    mean = torch.tensor([[100.0, 50.0, 30.0], [1.0, 2.0, 3.0]])
    deviation = torch.tensor([[20.0, 10.0, 5.0], [4.0, 5.0, 6.0]])
    changed = pervasive.gamma(standard, mean, deviation)
    means = changed.mean((3, 4))
    torch.testing.assert_close(means, mean[:, None].expand(2, 5, 3), rtol=1e-4, atol=1e-3)
    deviations = changed[:, 1:].std((3, 4), correction=0)
    expected = deviation[:, None].expand(2, 4, 3)
    torch.testing.assert_close(deviations, expected, rtol=1e-4, atol=1e-4)
    assert changed[0, 0, 1].eq(50).all()


def test_roughness_restated_pixel_by_pixel() -> None:
    levels = (255 * torch.rand(2, 2, 1, 4, 5)).double()
    found = pervasive.roughness(levels)
    for lane in range(2):
        total = 0.0
        for picture in levels[lane]:
            for row in range(4):
                for column in range(5):
                    rows = slice(max(0, row - 1), row + 2)
                    columns = slice(max(0, column - 1), column + 2)
                    around = picture[0, rows, columns].mean()
                    total += float((picture[0, row, column] - around) ** 2)
        assert float(found[lane]) == pytest.approx(total / (2 * 4 * 5))
    flat = torch.full((1, 1, 3, 8, 8), 200.0)
    assert float(pervasive.roughness(flat)) == pytest.approx(0)


def test_terms_are_means_over_each_lane() -> None:
    first = torch.rand(2, 3, 4, 4, 4)
    second = torch.rand(2, 3, 4, 4, 4)
    expected = [float(((first[lane] - second[lane]) ** 2).mean()) for lane in range(2)]
    assert pervasive.content(first, second).tolist() == pytest.approx(expected)
    levels = 255 * torch.rand(2, 3, 3, 16, 16)
    other = levels.clone()
    other[1] = 255 - levels[1]
    unlike = pervasive.unlike(other, levels)
    assert float(unlike[0]) == pytest.approx(0, abs=1e-5)
    assert float(unlike[1]) > 1
    mean = torch.tensor([[1.0, 2.0]])
    deviation = torch.tensor([[3.0, 4.0]])
    usual = (torch.tensor([[0.0, 4.0]]), torch.tensor([[3.0, 1.0]]))
    assert float(pervasive.unusual(mean, deviation, usual)) == pytest.approx(1.5 + 1.5)
