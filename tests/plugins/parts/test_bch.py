from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.parts.bch import generator_polynomial, parity


def product(left: int, right: int, primitive: int) -> int:
    """In the field of 2^m elements: shift and add, reduced as it goes."""
    size = primitive.bit_length() - 1
    found = 0
    for place in reversed(range(size)):
        found <<= 1
        if found >> size:
            found ^= primitive
        if right >> place & 1:
            found ^= left
    return found


def value_at(bits: list[int], point: int, primitive: int) -> int:
    """A polynomial, its highest term first, by Horner's rule."""
    found = 0
    for bit in bits:
        found = product(found, point, primitive) ^ bit
    return found


@settings(deadline=None, max_examples=20)
@given(st.binary(min_size=0, max_size=7), st.integers(1, 5))
def test_a_codeword_is_zero_at_the_powers_that_define_the_code(message: bytes, errors: int) -> None:
    primitive = 0b10001001
    checks = generator_polynomial(primitive, errors).bit_length() - 1
    coded = [
        int(bit) for byte in message + parity(message, primitive, errors) for bit in f"{byte:08b}"
    ]
    word, filling = coded[: 8 * len(message) + checks], coded[8 * len(message) + checks :]
    assert not any(filling)
    power = 1
    for _ in range(2 * errors):
        power = product(power, 2, primitive)
        assert value_at(word, power, primitive) == 0


def test_generators_that_tables_print() -> None:
    """Lin and Costello, table of BCH codes, in octal: (15, 11), (15, 7), (15, 5); (31, 21)."""
    assert [generator_polynomial(0b10011, errors) for errors in (1, 2, 3)] == [0o23, 0o721, 0o2467]
    assert generator_polynomial(0b100101, 2) == 0o3551


def test_a_message_must_fit_the_field() -> None:
    assert len(parity(bytes(11), 137, 5)) == 5
    with pytest.raises(
        ValueError, match="12 bytes and 35 check bits are more than the code's 127 bits"
    ):
        parity(bytes(12), 137, 5)
