"""The context of a stage's body, whatever it is granted: task, place in the grid, time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.access.seeds import seed
from harness.errors import OutOfTime
from harness.keeping.continuing import Continuing
from harness.learn.anatomy import Architecture
from harness.learn.task import Task

if TYPE_CHECKING:
    from harness.learn.recipes import Recipe


@dataclass(frozen=True)
class Deadline:
    """The moment at which the host kills the stage; `at` on the monotonic clock, None for never."""

    at: float | None

    @property
    def left(self) -> float:
        """Seconds left; infinite without a time-out."""
        return float("inf") if self.at is None else self.at - time.monotonic()

    def check(self) -> None:
        """Raise OutOfTime once it has passed: ends a loop with a sentence instead of a kill."""
        if self.left <= 0:
            raise OutOfTime("the stage's time-out has passed")


@dataclass(frozen=True)
class Coordinates:
    """The place of a stage in the grid, as far as randomness goes. `replicate` is None for unseeded
    components.
    """

    replicate: int | None
    dataset: str
    stage: str
    component: str

    def shared(self, stream: str) -> int:
        """Return the seed of a stream that all components of this stage kind share (initial
        weights, order, selection).
        """
        return seed(self.replicate, self.dataset, self.stage, stream)

    def own(self, stream: str) -> int:
        """Return the seed of a component's own noise."""
        return seed(self.replicate, self.dataset, self.stage, stream, self.component)


@dataclass(frozen=True)
class StageContext:
    """Everything that every stage body has at hand."""

    task: Task
    model: Architecture | None
    recipe: Recipe | None
    coordinates: Coordinates
    device: str
    scratch: Path
    deadline: Deadline
    progress: Callable[[int, int, float | None], None]
    parts: Mapping[str, Callable[[], Any]]
    numerics: Mapping[str, Any] = field(default_factory=dict)
    """Of `recipe`, what holds for every training of the grid, where the whole of it is not here."""
    continuing: Continuing = field(default_factory=Continuing)
    """What is kept of the stage's loops; of itself nothing."""
