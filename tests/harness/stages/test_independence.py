"""What two processes got for the same images agrees up to rounding, or the model is told; the
sample of a stream holds no twins, and asks like among like.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.stages.independence import AT_LEAST, IN_PAIRS, SHARE, NotIndependent, check, choose

LOGITS = torch.randn(200, 10, generator=torch.Generator().manual_seed(4)) * 5


def test_rounding_is_no_dependence() -> None:
    noise = torch.randn(200, 10, generator=torch.Generator().manual_seed(5)) * 1e-5
    check(LOGITS, LOGITS + noise)
    check(LOGITS * 1e-6, (LOGITS + noise) * 1e-6)
    first, tied = torch.tensor([[1.0, 1.00001, -3.0]]), torch.tensor([[1.00001, 1.0, -3.0]])
    rest = torch.tensor([[0.0, 1.0, 2.0]]).expand(199, -1)
    check(torch.cat([first, rest]), torch.cat([tied, rest]))
    check(torch.cat([first, rest[:3]]), torch.cat([tied, rest[:3]]))


def test_logits_are_known_no_better_than_their_own_size_allows() -> None:
    single = LOGITS[:, :1]
    check(single, single * (1 + 2e-7))
    for far in (-3e4, 3e4):
        close = LOGITS * 1e-3 + far
        beside = torch.nextafter(close, torch.zeros(()))
        assert not torch.equal(close, beside)
        check(close, beside)


def test_a_single_logit_that_is_another_is_told() -> None:
    single = LOGITS[:, :1]
    with pytest.raises(NotIndependent, match="200 got other logits and 0 another label"):
        check(single, single * 1.001)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_other_logits_for_one_image_are_told(scale: float) -> None:
    other = LOGITS.clone()
    other[17] = other[17].roll(1)
    with pytest.raises(NotIndependent, match=r"of 200 test images .* 1 got other logits and 1 an"):
        check(LOGITS * scale, other * scale)


def test_a_huge_logit_hides_no_other_label() -> None:
    def beside_a_huge_one(logits: Tensor) -> Tensor:
        return torch.cat([logits, torch.full((200, 1), -1e9)], 1)

    other = LOGITS.clone()
    other[:20] = other[:20].roll(1, 1)
    with pytest.raises(NotIndependent, match="0 got other logits and 20 another label"):
        check(beside_a_huge_one(LOGITS), beside_a_huge_one(other))


# --- the sample -----------------------------------------------------------------------------------


@given(images=st.integers(1, 700), sets=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_test_image_is_in_the_sample_once(images: int, sets: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(images * sets, generator=generator)
    names = ("clean", "triggered", "variant.noise")[:sets]
    places = dict(zip(names, order.split(images), strict=True))
    labels = torch.arange(images) % 7
    expected = {name: labels if name == "clean" else torch.full_like(labels, 3) for name in names}
    sample = choose(places, expected, generator)

    assert len(sample) == min(images, max(AT_LEAST, images * sets // SHARE))
    asked = []
    wanted = []
    for place in sample.tolist():
        for name in names:
            found = (places[name] == place).nonzero().flatten()
            if len(found):
                asked.append(int(found))
                wanted.append(int(expected[name][found]))
    assert len(asked) == len(sample)
    assert len(set(asked)) == len(asked)
    assert wanted[IN_PAIRS:] == sorted(wanted[IN_PAIRS:])


def test_all_sets_are_in_the_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, triggered = torch.randperm(20_000, generator=generator).split(10_000)
    labels = torch.zeros(10_000, dtype=torch.int64)
    sets = {"clean": clean, "triggered": triggered}
    sample = choose(sets, {"clean": labels, "triggered": labels}, generator)
    assert len(sample) == 1250
    for places in sets.values():
        assert 500 < int(torch.isin(sample, places).sum()) < 750
