from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from harness.learn.hooks import Batch
from plugins.parts.cutmix import CutMix, box, kept_of
from tests.kit.oracles import oracle


@pytest.mark.oracle
def test_boxes_and_shares_as_the_official_code_has_them() -> None:
    for row in oracle("defenses/tr_losses")["out_cutmix_lam_cx_cy_x1_y1_x2_y2_adj"].tolist():
        share, down, across, top, left, bottom, right, kept = row
        found = box(share, int(down), int(across), 32, 32)
        assert found == (top, bottom, left, right)
        assert kept_of(found, 32, 32) == pytest.approx(kept, rel=1e-6)


@pytest.mark.oracle
def test_smoothed_losses_as_the_official_code_has_them() -> None:
    recorded = oracle("defenses/tr_losses")
    logits, labels = (
        torch.from_numpy(recorded["in_logits"]),
        torch.from_numpy(recorded["in_labels"]),
    )
    mix = CutMix(0.0, float(recorded["par_smoothing"]), torch.Generator())
    batch = mix.batch(Batch(logits, labels, torch.arange(3), 0, 0))
    for name in ("timm", "torch"):
        np.testing.assert_allclose(
            mix.loss(nn.Identity(), batch), recorded[f"out_ls_ce_{name}"], rtol=1e-5
        )


@given(
    share=st.floats(0, 1),
    row=st.integers(0, 11),
    column=st.integers(0, 6),
    height=st.just(12),
    width=st.just(7),
)
def test_a_box_is_around_its_centre_and_no_larger_than_asked(
    share: float, row: int, column: int, height: int, width: int
) -> None:
    top, bottom, left, right = box(share, row, column, height, width)
    assert 0 <= top <= row <= bottom <= height
    assert 0 <= left <= column <= right <= width
    assert 1 - share - 1e-9 <= kept_of((top, bottom, left, right), height, width) + (1 - share)
    assert (bottom - top) * (right - left) <= (1 - share) * height * width + 1e-6


def batch_of(count: int = 6) -> Batch:
    images = torch.arange(count).view(-1, 1, 1, 1).expand(count, 1, 12, 7).float()
    return Batch(images, torch.arange(count), torch.arange(count), 0, 0)


def test_each_image_has_a_box_of_one_other_and_its_label_in_that_share() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        plain, mix = batch_of(), CutMix(1.0, 0.0, generator)
        mixed = mix.batch(plain)
        assert mix.others is not None
        assert sorted(mix.others.tolist()) == list(range(6))
        for place, other in enumerate(mix.others.tolist()):
            found = mixed.images[place].flatten().tolist()
            assert set(found) <= {float(place), float(other)}
            if other != place:
                assert found.count(float(place)) / len(found) == pytest.approx(mix.kept)
        assert torch.equal(plain.images, batch_of().images)  # the batch itself is not touched


def test_the_loss_restated() -> None:
    mix, logits = CutMix(1.0, 0.1, torch.Generator().manual_seed(3)), torch.randn(6, 6)

    class Fixed(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return logits

    mixed = mix.batch(batch_of())
    assert mix.others is not None
    assert 0 < mix.kept < 1
    total = 0.0
    for place, other in enumerate(mix.others.tolist()):
        target = np.full(6, 0.1 / 6)
        target[place] += 0.9 * mix.kept
        target[other] += 0.9 * (1 - mix.kept)
        answers = logits[place].double().numpy()
        total -= float((target * (answers - math.log(np.exp(answers).sum()))).sum())
    assert float(mix.loss(Fixed(), mixed)) == pytest.approx(total / 6, rel=1e-5)


def test_batches_are_mixed_as_often_as_asked() -> None:
    generator = torch.Generator().manual_seed(0)
    mix = CutMix(0.3, 0.0, generator)
    mixed = 0
    for _ in range(300):
        mix.batch(batch_of())
        mixed += mix.others is not None
    assert 60 < mixed < 120
    plain = batch_of()
    never = CutMix(0.0, 0.0, generator)
    assert never.batch(plain) is plain
    expected = functional.cross_entropy(torch.eye(6), torch.arange(6))
    logits = Batch(torch.eye(6), torch.arange(6), torch.arange(6), 0, 0)
    assert float(never.loss(nn.Identity(), logits)) == pytest.approx(float(expected))
