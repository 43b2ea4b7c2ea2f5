"""Loops and stages that are stopped at places of a test's choice, and go on."""

from __future__ import annotations

import fnmatch
import importlib
import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from harness import grid
from harness.access.context import Deadline
from harness.errors import Paused
from harness.keeping import loops as keeping_loops
from harness.keeping.continuing import CHECKPOINTS, RESUME, Continuing
from harness.plan import plan
from harness.registry.discovery import discover
from harness.registry.memo import Memo
from harness.registry.names import Registry
from harness.registry.resolve import Resolver
from harness.sources.digests import Sources
from harness.stages.artefacts import RESULT_FILE
from harness.stages.job import Job
from harness.stages.stage import Stage
from harness.stages.wire import read_payload
from harness.store import disk

T = TypeVar("T")
Body = Callable[[Continuing], T]

TIMES = 3
"""Times that a stage is stopped."""


class Stopping(Continuing):
    """Stops at the boundary number `at` of those at which something could be kept (None: never);
    counts them in `boundaries`.
    """

    def __init__(self, scratch: Path, at: int | None) -> None:
        super().__init__(scratch, 1e9, lambda: {"environment": {}, "opened": []})
        self.at = at
        self.boundaries = 0

    def due(self) -> bool:
        self.boundaries += 1
        return self.boundaries == self.at

    def asked_to_pause(self) -> bool:
        return self.boundaries == self.at


def keep_everything(patch: pytest.MonkeyPatch) -> None:
    """Let loops be kept however short they are."""
    for name in ("LONG", "QUICK", "SHARE"):
        patch.setattr(keeping_loops, name, 0)


def boundaries(body: Body[T], folder: Path) -> tuple[T, int]:
    """Return what a body makes undisturbed, and the number of places at which it can be stopped."""
    folder.mkdir(parents=True)
    loops = Stopping(folder, None)
    return body(loops), loops.boundaries


def disturbed(body: Body[T], folder: Path, places: Sequence[int]) -> T:
    """Return what a body makes that is stopped at these boundaries (ascending, from 1), each time
    in an attempt of its own.
    """
    passed = 0
    for attempt, place in enumerate([*places, None]):
        scratch = folder / str(attempt)
        scratch.mkdir(parents=True)
        if attempt:
            hand_over(folder / str(attempt - 1), scratch)
        # The boundary that an attempt goes on from is its first.
        loops = Stopping(scratch, None if place is None else place - max(0, passed - 1))
        loops.resume(dict)
        assert loops.before.continued == attempt
        try:
            made = body(loops)
        except Paused:
            assert place is not None
            passed = place
        else:
            assert place is None, f"it ended before boundary {place}"
    return made


def hand_over(before: Path, after: Path) -> None:
    """Copy the newest checkpoint of an attempt into the scratch folder of the next, as hosts do."""
    kept = before / CHECKPOINTS
    newest = max(int(path.name) for path in kept.iterdir() if path.name.isdecimal())
    shutil.copytree(kept / str(newest), after / RESUME)
    shutil.rmtree(kept)


def at_random(count: int, seed: int) -> list[int]:
    """Draw the boundaries at which something is stopped, of `count`; all where there are few."""
    if count <= TIMES:
        return list(range(1, count + 1))
    draw = random.Random(seed)
    return sorted(draw.randint(1, count) for _ in range(TIMES))


# --- whole stages ---------------------------------------------------------------------------------


class Planner:
    """Plans grids; what it asks about plugins it asks once."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "grid.toml"
        memo = Memo(folder / "memo")
        box = discover(memo)
        self.registry = Registry(box.entries(), map(box.recipe, box.recipes))
        self.resolver = Resolver(self.registry, Sources(), memo)

    def stages(self, text: str) -> list[Stage]:
        """Return the stages of a grid file with this text, upstream first."""
        self.path.write_text(text)
        read = grid.read(self.path)
        sources = self.resolver.sources
        planned = plan.build(read, read.cells, self.registry, self.resolver, sources)
        return list(planned.graph.stages.values())


def stage_body(stage: Stage, made: Mapping[str, Path], folder: Path) -> Body[dict[str, Any]]:
    """Return the body of a stage, which gets its inputs from the folders `made` (by key), leaves
    its files in `folder`, and returns their digests; of results without seconds.
    """

    def body(loops: Continuing) -> dict[str, Any]:
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("inputs", "out", "work"):
            (folder / name).mkdir(parents=True)
        for item in stage.inputs:
            for name, source in disk.outputs(made[item.key]).items():
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in item.files):
                    target = folder / "inputs" / item.role / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, target)
        told = json.loads(json.dumps(stage.payload.to_json()))
        job = Job(
            payload=read_payload(stage.kind, told),
            inputs=folder / "inputs",
            out=folder / "out",
            scratch=folder / "work",
            device="cpu",
            deadline=Deadline(None),
            progress=lambda done, of, loss: None,
            continuing=loops,
        )
        importlib.import_module(f"harness.stages.{stage.kind}").run(job)
        facts = {name: job.record.get(name) for name in ("images", "precision", "stepping")}
        return {**facts, **{name: _digest(path) for name, path in _left(folder).items()}}

    return body


def _left(folder: Path) -> dict[str, Path]:
    return disk.outputs(folder / "out")


def _digest(path: Path) -> Any:
    if path.name != RESULT_FILE:
        return disk.checksum(path)
    result = json.loads(path.read_text())
    result["record"].pop("seconds", None)
    return result
