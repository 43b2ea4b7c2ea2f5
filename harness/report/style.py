"""How numbers are written: percent and seconds with two decimals, counts whole, everything in one
column alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """Decimals of a metric's single values, and of its means."""

    single: int
    mean: int

    @classmethod
    def of(cls, unit: str, values: Sequence[float]) -> Style:
        """For a metric with this unit and these values in a table."""
        if unit in ("%", "s"):
            return cls(2, 2)
        if all(value == int(value) for value in values):
            return cls(0, 1)
        small = max(map(abs, values), default=1.0) < 1
        return cls(4, 4) if small else cls(2, 2)

    def write(self, values: Sequence[float]) -> str:
        """`91.23`, or `91.23 ± 0.45`: mean and standard deviation (n-1)."""
        if len(values) == 1:
            return f"{values[0]:.{self.single}f}"
        return (
            f"{statistics.fmean(values):.{self.mean}f} ± {statistics.stdev(values):.{self.mean}f}"
        )

    def write_mean(self, values: Sequence[float]) -> str:
        """The mean alone."""
        return f"{statistics.fmean(values):.{self.mean}f}"

    def write_combined(self, told: Mapping[str, float]) -> str:
        """What a metric's own `combine` gave: `mean` with `std`, one number as it is, others by
        name.
        """
        if "mean" in told and told.keys() <= {"mean", "std", "n"}:
            spread = f" ± {told['std']:.{self.mean}f}" if "std" in told else ""
            return f"{told['mean']:.{self.mean}f}{spread}"
        others = {name: value for name, value in told.items() if name != "n"}
        if len(others) == 1:
            return f"{next(iter(others.values())):.{self.mean}f}"
        return ", ".join(f"{name} {value:.{self.mean}f}" for name, value in others.items())
