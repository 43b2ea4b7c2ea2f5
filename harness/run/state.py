"""The state of a run: its options, the stages at work, how others ended, and its summary."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.outcomes import Outcome
from harness.run.children import ENTRY, PRELOAD
from harness.run.slots import Slot
from harness.stages.stage import Stage
from harness.store.objects import Store


class Executable(Protocol):
    """A plan as far as a run needs it: stages in topological order, and how each stands.

    Stages that are TO_RUN are run. One that is CACHED, or of which nothing is said, is run only if
    it is needed and turns out to be missing.
    """

    @property
    def stages(self) -> Mapping[str, Stage]:
        """Stages by key."""

    @property
    def outcome(self) -> Mapping[str, Outcome]:
        """The standing of each stage in the store, by key."""


CHECKPOINT = 300.0
"""Seconds between two times that a stage's state is kept, unless a run says otherwise."""


def _data_roots() -> tuple[Path, ...]:
    root = os.environ.get("BENCH_DATA")
    if root:
        return (Path(root),)
    return ()


@dataclass(frozen=True)
class Options:
    """Choices of how to run; none of them enters a key.

    `jobs`, `threads`, `device`: see `harness.run.slots`. `timeout` in seconds a stage; with
    `pause`, a stage that keeps its state is paused then, and does not fail. `checkpoint`: seconds
    between two times that a stage's state is kept, 0 for never.
    `data_roots`: folders that guarded stages must not open, beside the store. `entry` and
    `preload`: see `harness.run.children`. `grid`: the file that the plan was made of, for notes of
    failures.
    """

    jobs: int | None = None
    threads: int | None = None
    device: str = "auto"
    timeout: float | None = None
    engine: str = "local"
    data_roots: tuple[Path, ...] = field(default_factory=_data_roots)
    entry: str = ENTRY
    preload: tuple[str, ...] = PRELOAD
    checkpoint: float = CHECKPOINT
    pause: bool = False
    grid: Path | None = None


@dataclass(frozen=True)
class Ended:
    """The end of a stage. `message` says why, unless it is done; `log` is the file with its
    output.

    `beside` is set where the stage was caught among others at work: the keys of those that ran
    beside it and are over. They must be made again.
    """

    outcome: Outcome
    message: str = ""
    seconds: float = 0.0
    log: Path | None = None
    beside: tuple[str, ...] | None = None


@dataclass
class Running:
    """A stage at work: since when (monotonic seconds) and how far it is."""

    stage: Stage
    slot: Slot
    since: float
    progress: Mapping[str, Any] | None = None


@dataclass
class Run:
    """A run as observers see it; they read, and change nothing.

    `ended` and `running` by key; `wanted` counts the stages that are to run, those included that
    ended.
    """

    plan: Executable
    store: Store
    options: Options
    slots: Sequence[Slot] = ()
    wanted: int = 0
    ended: dict[str, Ended] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    kept: Mapping[str, float] = field(default_factory=dict)
    """Seconds of work that checkpoints held at the start of the run, by key."""


@dataclass(frozen=True)
class Summary:
    """The result of a run. `ended` by key, `left` the number of stages that an interruption left
    unfinished.
    """

    stages: Mapping[str, Stage]
    ended: Mapping[str, Ended]
    seconds: float
    left: int = 0
    interrupted: int | None = None
    """The signal that ended the run, if one did."""

    @property
    def counts(self) -> Counter[Outcome]:
        """The number of stages by outcome."""
        return Counter(ended.outcome for ended in self.ended.values())

    @property
    def failures(self) -> dict[str, Ended]:
        """The ends of those stages that failed, timed out or were blocked, by key."""
        return {key: ended for key, ended in self.ended.items() if ended.outcome.is_failure}

    @property
    def exit_code(self) -> int:
        """0: all is done; 1: something failed, is blocked or paused; 128 + signal: interrupted."""
        if self.interrupted:
            return 128 + self.interrupted
        if self.failures or self.counts[Outcome.PAUSED]:
            return 1
        return 0
