"""Which pair of classes is hardened next: the one that promises most (MOTH, Tao et al. 2022).

At first a pair's promise is what training on universal triggers taught of its classes, later what
training on the pair's own triggers did to its distance:

    (1 - a) (U + U^T) + a (D + D^T),    a rising from 0 to 1
"""

from __future__ import annotations

import torch
from torch import Tensor

from plugins.parts.inversion import Found

Pair = tuple[int, int]


class PairChoice:
    """Records on all ordered pairs of classes, float64 (classes, classes) on the CPU.

    Rows are the classes of the images, columns those that they are turned to.
    """

    def __init__(self, classes: int) -> None:
        self.learned = torch.zeros(classes, classes, dtype=torch.float64)
        """U: by what share a step on the column's universal trigger lowered the loss of the row"""
        self.grown = torch.zeros(classes, classes, dtype=torch.float64)
        """D: relative growth of the distance, each time averaged with what was recorded before"""
        self.size = torch.zeros(classes, classes, dtype=torch.float64)
        """distance that was found last"""

    def begin(self, sizes: Tensor) -> None:
        """Take the sizes of universal triggers (classes,) for the distances of all pairs.

        The first record of growth is a size as a share of the largest.
        """
        self.size[:] = sizes.double()
        self.size.fill_diagonal_(0)
        largest = self.size.max()
        if largest > 0:
            self.grown[:] = self.size / largest

    def share(self, step: int, ramp: int) -> float:
        """Return a, after `step` steps since the warm-up; 1 from `ramp` on."""
        return min(step / ramp, 1.0)

    def scores(self, share: float) -> Tensor:
        """Return the promise of each pair, symmetric (classes, classes), for the weight a."""
        learned = self.learned + self.learned.T
        grown = self.grown + self.grown.T
        return (1 - share) * learned + share * grown

    def best(self, share: float) -> Pair:
        """Return the pair that promises most; of equal ones the first, row by row."""
        scores = self.scores(share)
        scores.fill_diagonal_(-torch.inf)
        place = int(scores.argmax())
        return divmod(place, len(scores))

    def any(self, draw: torch.Generator) -> Pair:
        """Return a pair drawn at random, all ordered ones alike."""
        classes = len(self.size)
        source, other = torch.randint(classes, (2,), generator=draw).tolist()
        while source == other:
            source, other = torch.randint(classes, (2,), generator=draw).tolist()
        return source, other

    def record(self, pair: Pair, size: float) -> None:
        """Record a distance that was found for an ordered pair."""
        before = float(self.size[pair])
        if before > 0:
            growth = (size - before) / before
            self.grown[pair] = (self.grown[pair] + growth) / 2
        self.size[pair] = size

    def state_dict(self) -> dict[str, Tensor]:
        """Return all records."""
        return {"learned": self.learned, "grown": self.grown, "size": self.size}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned."""
        self.learned.copy_(state["learned"])
        self.grown.copy_(state["grown"])
        self.size.copy_(state["size"])


class Stored:
    """The largest trigger found so far of each ordered pair."""

    def __init__(self) -> None:
        self._kept: dict[Pair, Found] = {}

    def add(self, pair: Pair, trigger: Found) -> None:
        """Keep a trigger if it is the pair's largest."""
        kept = self._kept.get(pair)
        if kept is None or trigger.size > kept.size:
            self._kept[pair] = trigger

    def start(self, pair: Pair, fresh: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return mask and pattern of the pair's trigger, or those of `fresh` where it has none."""
        kept = self._kept.get(pair)
        if kept is None:
            return fresh
        return kept.mask, kept.pattern

    def state_dict(self) -> dict[str, list[object]]:
        """Return all triggers."""
        rows: list[object] = []
        for pair, trigger in self._kept.items():
            rows.append([*pair, trigger.mask, trigger.pattern])
        return {"rows": rows}

    def load_state_dict(self, state: dict[str, list[tuple[int, int, Tensor, Tensor]]]) -> None:
        """Take over what `state_dict` returned."""
        self._kept.clear()
        for source, target, mask, pattern in state["rows"]:
            self._kept[source, target] = Found(mask, pattern, True)
