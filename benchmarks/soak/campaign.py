"""A campaign: steps with random draws of their own, until its time is up; what broke is reported
with the command that does just that step again, and its folder is kept.
"""

from __future__ import annotations

import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tabulate import tabulate

from benchmarks.soak.ground import Broken, Ground, end_all

Attempt = Callable[[Random, Ground, Path, Counter[str]], None]
"""One step, in an empty folder: makes tries and counts them by kind. Raises Broken."""


@dataclass
class Failure:
    """A step at which the harness broke a promise."""

    step: int
    message: str
    folder: Path


@dataclass
class Tally:
    """What a campaign did, and what broke."""

    name: str
    seed: int
    tries: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    interrupted: bool = False
    """Whether somebody pressed Ctrl-C."""

    def to_json(self) -> dict[str, Any]:
        """Return all of it, for a file of results."""
        failures = [{"step": one.step, "message": one.message} for one in self.failures]
        return {
            "seed": self.seed,
            "steps": self.steps,
            "tries": self.tries.total(),
            "kinds": dict(sorted(self.tries.items())),
            "seconds": round(self.seconds, 1),
            "failures": failures,
        }


@dataclass(frozen=True)
class Bounds:
    """When a campaign ends: after so many seconds or tries, whichever is first; `only` is the one
    step to make.
    """

    seconds: float
    tries: int | None = None
    only: int | None = None

    def reached(self, tally: Tally, began: float) -> bool:
        """Tell whether a campaign that began then (monotonic seconds) has done enough."""
        if self.only is not None:
            return tally.steps > 0
        if self.tries is not None and tally.tries.total() >= self.tries:
            return True
        return time.monotonic() - began > self.seconds


def carry_out(name: str, attempt: Attempt, ground: Ground, seed: int, bounds: Bounds) -> Tally:
    """Make steps until the bounds are reached, or until Ctrl-C. What else than Broken is raised is
    a fault of the campaign, and ends it.
    """
    tally = Tally(name, seed)
    began = time.monotonic()
    step = bounds.only or 0
    while not bounds.reached(tally, began):
        folder = ground.folder / f"{name}-{step}"
        folder.mkdir()
        try:
            attempt(Random(f"{seed} {name} {step}"), ground, folder, tally.tries)
        except Broken as broken:
            tally.failures.append(Failure(step, str(broken), folder))
            end_all(folder / "temporary")
            (folder / "broken.txt").write_text(traceback.format_exc(), "utf-8", "replace")
            print(f"{name}, step {step}: {broken}", file=sys.stderr)
            print(f"  again: {again(name, seed, step)}", file=sys.stderr)
            print(f"  what is left of it: {folder}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print(f"{name} is interrupted in step {step}", file=sys.stderr)
            tally.interrupted = True
            break
        else:
            shutil.rmtree(folder)
        tally.steps += 1
        step += 1
        tally.seconds = time.monotonic() - began
    return tally


def again(name: str, seed: int, step: int) -> str:
    """Return the command that makes one step again."""
    return f"python -m benchmarks.soak {name} --seed {seed} --only {step}"


def table(tallies: list[Tally]) -> str:
    """Lay out tries and failures for the terminal."""
    head = ["campaign", "seed", "steps", "tries", "failures", "seconds"]
    body: list[list[object]] = []
    kinds = []
    for tally in tallies:
        counts = [tally.seed, tally.steps, tally.tries.total(), len(tally.failures)]
        body.append([tally.name, *counts, round(tally.seconds)])
        told = ", ".join(f"{count} {kind}" for kind, count in tally.tries.most_common())
        kinds.append(f"{tally.name}: {told}")
    return "\n".join([tabulate(body, head, "simple"), "", *kinds])
