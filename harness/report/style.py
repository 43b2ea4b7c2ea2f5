"""The writing of numbers: percent and seconds with two decimals, counts whole, everything in one
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
        """Return the style of a metric with this unit and these values in a table."""
        if unit in ("%", "s"):
            return cls(2, 2)
        if all(value == int(value) for value in values):
            return cls(0, 1)
        largest = max(map(abs, values))
        if largest < 1:
            return cls(4, 4)
        return cls(2, 2)

    def write(self, values: Sequence[float]) -> str:
        """Return `91.23`, or `91.23 ± 0.45`: mean and standard deviation (n-1)."""
        if len(values) == 1:
            return f"{values[0]:.{self.single}f}"
        deviation = statistics.stdev(values)
        return f"{self.write_mean(values)} ± {deviation:.{self.mean}f}"

    def write_mean(self, values: Sequence[float]) -> str:
        """Return the mean alone."""
        return self._write_one(statistics.fmean(values))

    def write_combined(self, combined: Mapping[str, float]) -> str:
        """Return the text of what a metric's own `combine` gave: `mean` with `std`, a single number
        without its name, others by name.
        """
        if "mean" in combined and combined.keys() <= {"mean", "std", "n"}:
            text = self._write_one(combined["mean"])
            if "std" in combined:
                text += f" ± {self._write_one(combined['std'])}"
            return text
        texts = {}
        for name, value in combined.items():
            if name != "n":
                texts[name] = self._write_one(value)
        if len(texts) == 1:
            return texts.popitem()[1]
        return ", ".join(f"{name} {text}" for name, text in texts.items())

    def _write_one(self, number: float) -> str:
        return f"{number:.{self.mean}f}"
