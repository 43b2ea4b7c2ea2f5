"""Parity of a binary BCH code, so that a message can be read although some bits were misread."""

from __future__ import annotations


def parity(message: bytes, primitive: int, errors: int) -> bytes:
    """Return check bits for `message`, first bit first, filled up with zeros to whole bytes.

    `primitive` is the field's primitive polynomial as bits (137 is x^7 + x^3 + 1); `errors` is how
    many misread bits the code must bear. Raises ValueError where the message is too long for the
    field.
    """
    generator = generator_polynomial(primitive, errors)
    checks = generator.bit_length() - 1
    longest = _nonzero_elements(primitive)
    if 8 * len(message) + checks > longest:
        raise ValueError(
            f"{len(message)} bytes and {checks} check bits are more than the code's {longest} bits"
        )
    shifted = int.from_bytes(message) << checks
    remainder = _remainder(shifted, generator)
    size = -(-checks // 8)
    filled = remainder << (8 * size - checks)
    return filled.to_bytes(size)


def generator_polynomial(primitive: int, errors: int) -> int:
    """Multiply the minimal polynomials of a, a^3, ..., a^(2 errors - 1), each once.

    Bit k is the term x^k.
    """
    order = _nonzero_elements(primitive)
    powers = [1]
    while len(powers) < order:
        power = _remainder(powers[-1] << 1, primitive)
        powers.append(power)
    product = 1
    seen: set[int] = set()
    for odd in range(1, 2 * errors, 2):
        conjugates = {odd * 2**turn % order for turn in range(order.bit_length())}
        if odd not in seen:
            minimal = _minimal(conjugates, powers)
            product = _times(product, minimal)
        seen |= conjugates
    return product


def _nonzero_elements(primitive: int) -> int:
    """Return how many elements but 0 the field has: the order of a, and the code's length."""
    degree = primitive.bit_length() - 1
    return (1 << degree) - 1


def _minimal(conjugates: set[int], powers: list[int]) -> int:
    """Return the polynomial whose roots are a^k for k in `conjugates`.

    Its coefficients lie in the field of two elements.
    """
    coefficients = [1]
    for exponent in conjugates:
        # times (x + a^exponent), lowest coefficient first
        raised = [0, *coefficients]
        scaled = [_field_times(value, exponent, powers) for value in coefficients]
        scaled.append(0)
        coefficients = [high ^ low for high, low in zip(raised, scaled, strict=True)]
    polynomial = 0
    for place, bit in enumerate(coefficients):
        polynomial |= bit << place
    return polynomial


def _field_times(value: int, exponent: int, powers: list[int]) -> int:
    """Multiply an element of the field by a^exponent."""
    if value == 0:
        return 0
    logarithm = powers.index(value) + exponent
    return powers[logarithm % len(powers)]


def _times(left: int, right: int) -> int:
    """Multiply two polynomials over the field of two elements."""
    product = 0
    while right:
        if right & 1:
            product ^= left
        left <<= 1
        right >>= 1
    return product


def _remainder(value: int, divisor: int) -> int:
    """Divide two such polynomials, and return the remainder."""
    size = divisor.bit_length()
    while value.bit_length() >= size:
        value ^= divisor << (value.bit_length() - size)
    return value
