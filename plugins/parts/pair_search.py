"""What searches for backdoors between pairs of classes have in common, whatever the backdoor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

Pair = tuple[int, int]
"""The class that pictures are of, and the one that they are turned to."""


@dataclass(frozen=True)
class Pictures:
    """Pictures of some classes, as many of each."""

    classes: Sequence[int]
    images: Tensor
    """uint8 (classes, n, h, w, c), on the device of the network"""


@dataclass(frozen=True)
class Answer:
    """What backdoors do at rest, by lane: tensors (lanes,) on the CPU."""

    success: Tensor
    """share of the pictures that get the target label"""
    distance: Tensor
    """how far the pictures moved, in the unit of the backdoor"""
    similarity: Tensor
    """mean SSIM"""


class PairSearch(Protocol):
    """A search for one backdoor for each of some pairs, all together; each is a lane.

    It is kept by `access.steps` while it goes on.
    """

    @property
    def running(self) -> list[int]:
        """The lanes that have not ended."""

    @property
    def distances(self) -> list[float]:
        """The smallest distance of each lane at which it succeeded; infinite: at none."""

    @property
    def steps(self) -> list[int]:
        """Steps of the optimiser that each lane has made."""

    def epoch(self) -> None:
        """Go once through the pictures with the lanes that are running."""

    def further(self, pictures: Pictures) -> Answer:
        """Ask the best backdoor of each lane about other pictures of the same classes."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that epochs change."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""


class PairSearches(Protocol):
    """A kind of backdoor to measure distances by."""

    @property
    def numbers(self) -> Mapping[str, float]:
        """What rows tell of what searches stand on."""

    def begin(self, pictures: Pictures, pairs: Sequence[Pair], stream: str) -> PairSearch:
        """Begin a search. `stream` names its draws: equal names give equal draws.

        Raises Incompatible where the backdoor does not fit the pictures.
        """
