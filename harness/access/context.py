"""What every stage body has at hand, whatever it is granted: the task, where it stands, how long it
has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.access.seeds import seed
from harness.components import Model, Task
from harness.errors import OutOfTime

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
    """Where a stage stands in the grid, as far as randomness goes. `replicate` is None for unseeded
    components.
    """

    replicate: int | None
    dataset: str
    stage: str
    component: str

    def shared(self, stream: str) -> int:
        """The seed of a stream that all components of this stage kind share (initial weights,
        order, selection).
        """
        return seed(self.replicate, self.dataset, self.stage, stream)

    def own(self, stream: str) -> int:
        """The seed of a component's own noise."""
        return seed(self.replicate, self.dataset, self.stage, stream, self.component)


@dataclass(frozen=True)
class StageContext:
    """What every stage body has at hand; made by the worker."""

    task: Task
    model: Model | None
    recipe: Recipe | None
    coordinates: Coordinates
    device: str
    scratch: Path
    deadline: Deadline
    progress: Callable[[int, int, float | None], None]
    parts: Mapping[str, Callable[[], Any]]
