"""Ranges that many parameters share; a range used once is written at its field."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field


def _odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError(f"{number} is even; an odd number has a middle")
    return number


Count = Annotated[int, Field(ge=1)]
"""A whole number from 1 on."""
Odd = Annotated[int, Field(ge=1), AfterValidator(_odd)]
"""An odd whole number from 1 on."""
CountOrZero = Annotated[int, Field(ge=0)]
"""A whole number from 0 on."""
Positive = Annotated[float, Field(gt=0)]
"""A number above 0."""
NotNegative = Annotated[float, Field(ge=0)]
"""A number from 0 on."""
Share = Annotated[float, Field(gt=0, le=1)]
"""A part of a whole, not none of it; `harness.Fraction` may be 0."""
