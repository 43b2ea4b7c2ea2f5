from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.access.seeds import seed

COORDINATES = st.tuples(
    st.none() | st.integers(0), *[st.text(st.characters(exclude_categories=["Cs"]))] * 4
)


@pytest.mark.parametrize(
    ("coordinates", "expected"),
    [
        ((0, "cifar10", "victim", "order"), 7746937110244497952),
        ((1, "cifar10", "victim", "order"), 8971098825298017108),
        ((None, "signs", "data", "split"), 270516812551222633),
        ((0, "cifar10", "defend", "noise", "ft"), 7572781626958902907),
    ],
)
def test_seeds_are_fixed_for_ever(
    coordinates: tuple[int | None, str, str, str], expected: int
) -> None:
    assert seed(*coordinates) == expected


@settings(deadline=None)
@given(COORDINATES)
def test_a_seed_fits_a_signed_64_bit_generator(
    coordinates: tuple[int | None, str, str, str, str],
) -> None:
    assert 0 <= seed(*coordinates) < 2**63


@settings(deadline=None)
@given(COORDINATES, COORDINATES)
def test_other_coordinates_give_another_seed(
    one: tuple[int | None, str, str, str, str], other: tuple[int | None, str, str, str, str]
) -> None:
    assert (seed(*one) == seed(*other)) == (one == other)


def test_a_component_without_noise_of_its_own_shares_the_stream() -> None:
    assert seed(0, "signs", "victim", "order") == seed(0, "signs", "victim", "order", "")
    assert seed(0, "signs", "victim", "order") != seed(0, "signs", "victim", "order", "badnets")


def test_what_is_no_coordinate_is_refused() -> None:
    with pytest.raises(TypeError):
        seed(0, b"signs", "victim", "order")  # type: ignore[arg-type]
