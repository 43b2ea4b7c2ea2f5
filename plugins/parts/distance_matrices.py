"""Matrices of the distances between classes, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from plugins.parts.pair_search import Answer, Pair, PairSearch


class Matrices:
    """What searches found, as arrays by search, class and target; NaN where there is nothing."""

    def __init__(self, classes: int, searches: int, pairs: Sequence[Pair], epochs: int) -> None:
        shape = (searches, classes, classes)
        self.pairs = list(pairs)
        self.trials = np.full(shape, np.nan)
        """distances"""
        self.steps = np.full(shape, np.nan)
        self.held_out = np.full(shape, np.nan)
        self.ssim = np.full(shape, np.nan)
        self.curves = np.full((*shape, epochs), np.nan, dtype=np.float32)
        """The smallest distance so far, after each epoch that was made."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return all of it but the pairs."""
        return {name: value for name, value in vars(self).items() if name != "pairs"}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over what `state_dict` returned."""
        vars(self).update(state)

    def note(
        self, number: int, pairs: Sequence[Pair], epoch: int, distances: Sequence[float]
    ) -> None:
        """Record the distances so far."""
        for (row, column), distance in zip(pairs, distances, strict=True):
            if np.isfinite(distance):
                self.curves[number, row, column, epoch] = distance

    def end(
        self, number: int, pairs: Sequence[Pair], search: PairSearch, further: Answer | None
    ) -> None:
        """Record a search that is over, and what it says of `further` pictures."""
        steps = search.steps
        distances = search.distances
        for lane, (row, column) in enumerate(pairs):
            self.steps[number, row, column] = steps[lane]
            if not np.isfinite(distances[lane]):
                continue
            self.trials[number, row, column] = distances[lane]
            if further is not None:
                self.held_out[number, row, column] = further.success[lane]
                self.ssim[number, row, column] = further.similarity[lane]

    def distances(self) -> np.ndarray:
        """Return the smallest distance of each pair, (classes, classes)."""
        return smallest(self.trials)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all of it, to be kept."""
        return {
            "distances": self.distances(),
            "trials": self.trials,
            "steps": self.steps,
            "held_out": self.held_out,
            "ssim": self.ssim,
            "curves": self.curves,
        }

    def growth(self, before: np.ndarray) -> dict[str, float]:
        """Return what rows show of the growth over the distances of another network."""
        distances = self.distances()
        compared = np.isfinite(distances) & np.isfinite(before)
        numbers = {"left_out": float(len(self.pairs) - compared.sum())}
        grown = increase(distances, before)
        if grown is not None:
            numbers["increase"] = grown
        return numbers

    def numbers(self) -> dict[str, float]:
        """Return the sums that rows show."""
        distances = self.distances()
        measured = distances[np.isfinite(distances)]
        numbers = {
            "pairs": float(len(self.pairs)),
            "failed": float(len(self.pairs) - len(measured)),
            "steps": mean(self.steps),
        }
        if not len(measured):
            return numbers
        numbers[""] = float(measured.mean())
        numbers["smallest"] = float(measured.min())
        if np.isfinite(self.held_out).any():
            numbers["held_out"] = 100 * mean(self.held_out)
            numbers["ssim"] = mean(self.ssim)
        fall = falling(self.curves)
        if fall is not None:
            numbers["falling"] = fall
        return numbers


def mean(values: np.ndarray) -> float:
    """Return the mean of what is no NaN."""
    return float(values[np.isfinite(values)].mean())


def smallest(trials: np.ndarray) -> np.ndarray:
    """Return the smallest of trials (searches, ...) that succeeded; NaN where none did."""
    filled = np.where(np.isfinite(trials), trials, np.inf).min(0)
    distances: np.ndarray = np.where(np.isfinite(filled), filled, np.nan)
    return distances


def increase(distances: np.ndarray, before: np.ndarray) -> float | None:
    """Return the mean over pairs of relative growth (Eq. 12), in percent.

    Pairs without a distance on either network are left out; None if no pair has both.
    """
    both = np.isfinite(distances) & np.isfinite(before)
    if not both.any():
        return None
    growth = (distances[both] - before[both]) / before[both]
    return float(100 * growth.mean())


def falling(curves: np.ndarray) -> float | None:
    """Return by how many percent curves (..., epochs) fall in the last third of their epochs.

    A mean over those that have a value by then; None if there is none.
    """
    falls: list[float] = []
    for curve in curves.reshape(-1, curves.shape[-1]):
        known = np.flatnonzero(np.isfinite(curve))
        if not len(known):
            continue
        end = known[-1]
        begin = end - (end + 1) // 3
        if np.isfinite(curve[begin]):
            falls.append(100 * float(1 - curve[end] / curve[begin]))
    if not falls:
        return None
    return float(np.mean(falls))
