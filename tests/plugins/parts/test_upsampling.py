from __future__ import annotations

import numpy as np
import pytest
import torch

from plugins.parts.upsampling import back_in_place, gaussian, nearest, places_of, spread
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.oracle
def test_upsampling_is_that_of_the_formula() -> None:
    recorded = oracle("defenses/deck_upsample")
    close = {"rtol": float(recorded["tol_rtol"]), "atol": float(recorded["tol_atol"])}
    pooled = torch.from_numpy(recorded["in_a"])
    sigma = torch.from_numpy(recorded["in_sigma_per_channel"]).view(1, -1, 1, 1)
    noise = sigma * torch.from_numpy(recorded["in_unit_normal"])
    np.testing.assert_allclose(spread(pooled, noise), recorded["out_randomised"], **close)
    zero = spread(pooled, torch.zeros_like(noise))
    np.testing.assert_allclose(zero, recorded["out_zero"], **close)
    np.testing.assert_allclose(nearest(pooled), recorded["out_nearest"], **close)


def test_values_go_to_the_top_left_of_their_cells() -> None:
    pooled = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    others = torch.full((1, 1, 4, 4), 9.0)
    expected = [[1, 9, 2, 9], [9, 9, 9, 9], [3, 9, 4, 9], [9, 9, 9, 9]]
    assert spread(pooled, others)[0, 0].tolist() == expected
    assert others.eq(9).all()
    assert nearest(pooled)[0, 0].tolist() == [[1, 1, 2, 2]] * 2 + [[3, 3, 4, 4]] * 2


def test_draws_have_the_deviation_of_their_channel() -> None:
    sigma = torch.tensor([0.5, 3.0])
    drawn = gaussian((50, 2, 20, 20), sigma, torch.Generator().manual_seed(0))
    assert drawn[:, :, ::2, ::2].eq(0).all()
    for rows, columns in ((0, 1), (1, 0), (1, 1)):
        part = drawn[:, :, rows::2, columns::2]
        assert part.mean((0, 2, 3)).abs().max() < 0.1
        torch.testing.assert_close(part.std((0, 2, 3)), sigma, rtol=0.05, atol=0)
    again = gaussian((50, 2, 20, 20), sigma, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


def test_values_go_back_to_where_they_were() -> None:
    taken = torch.tensor([[[[1.0, 5.0], [2.0, 3.0]]]])
    put = back_in_place(torch.tensor([[[[4.7]]]]), places_of(taken))
    torch.testing.assert_close(put, torch.tensor([[[[0.0, 4.7], [0.0, 0.0]]]]))
