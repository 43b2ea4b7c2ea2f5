"""The work that a stage's body is handed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness.access.context import Deadline
from harness.keeping.continuing import Continuing
from harness.stages.payloads import Payload

P = TypeVar("P", bound=Payload, covariant=True)


@dataclass(frozen=True)
class Job(Generic[P]):
    """All that the body of a stage is given.

    `inputs` holds one folder for each role; files written to `out` are the artefact; `scratch` is
    an empty folder; `progress` takes steps done, steps in all, and the mean loss of an epoch or
    None; `record` takes facts worth keeping in the manifest (the precision used, images processed);
    `continuing` keeps the state of loops; `opened` gets the paths that the stage opens, of
    processes that it forks too.
    """

    payload: P
    inputs: Path
    out: Path
    scratch: Path
    device: str
    deadline: Deadline
    progress: Callable[[int, int, float | None], None]
    record: dict[str, Any] = field(default_factory=dict)
    continuing: Continuing = field(default_factory=Continuing)
    opened: list[str] = field(default_factory=list)
