"""Parity of a binary BCH code, which lets a message be read although some of its bits were misread."""

from __future__ import annotations


def parity(message: bytes, primitive: int, errors: int) -> bytes:
    """Check bits for `message`, first bit first, filled up with zeros to whole bytes.

    `primitive` is the field's primitive polynomial as bits (137 is x^7 + x^3 + 1); `errors` is how
    many misread bits the code must bear. Raises ValueError where the message is too long for the
    field.
    """
    generator = generator_polynomial(primitive, errors)
    checks, longest = generator.bit_length() - 1, 2 ** (primitive.bit_length() - 1) - 1
    if 8 * len(message) + checks > longest:
        raise ValueError(
            f"{len(message)} bytes and {checks} check bits are more than the code's {longest} bits"
        )
    rest = _remainder(int.from_bytes(message) << checks, generator)
    size = -(-checks // 8)
    return (rest << (8 * size - checks)).to_bytes(size)


def generator_polynomial(primitive: int, errors: int) -> int:
    """The product of the minimal polynomials of a, a^3, ..., a^(2 errors - 1), each once; bit k is
    the term x^k.
    """
    order = 2 ** (primitive.bit_length() - 1) - 1
    powers = [1]
    while len(powers) < order:
        powers.append(_remainder(powers[-1] << 1, primitive))
    product, seen = 1, set[int]()
    for odd in range(1, 2 * errors, 2):
        family = {odd * 2**turn % order for turn in range(order.bit_length())}
        if odd not in seen:
            product = _times(product, _minimal(family, powers))
        seen |= family
    return product


def _minimal(family: set[int], powers: list[int]) -> int:
    """The polynomial whose roots are a^k for k in `family`; its coefficients lie in the field of
    two elements.
    """
    coefficients = [1]
    for exponent in family:
        raised = [0, *coefficients]
        scaled = [_field_times(value, exponent, powers) for value in coefficients]
        coefficients = [high ^ low for high, low in zip(raised, [*scaled, 0], strict=True)]
    return sum(bit << place for place, bit in enumerate(coefficients))


def _field_times(value: int, exponent: int, powers: list[int]) -> int:
    return powers[(powers.index(value) + exponent) % len(powers)] if value else 0


def _times(left: int, right: int) -> int:
    product = 0
    while right:
        product ^= left * (right & 1)
        left, right = left << 1, right >> 1
    return product


def _remainder(value: int, divisor: int) -> int:
    while value.bit_length() >= divisor.bit_length():
        value ^= divisor << (value.bit_length() - divisor.bit_length())
    return value
