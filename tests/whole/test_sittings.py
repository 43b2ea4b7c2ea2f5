"""Several sittings of `bench run`, on hosts of their own, share a store: a long stage is worked on
by one at a time, handed on when that one is killed, and counted once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.store.objects import Store

TRAIN = 1000
GRID = f"""
seeds = [0]
[[dataset]]
name = "signs"
train = {TRAIN}
test = 50
[[model]]
name = "small-cnn"
width = 8
[[attack]]
name = "badnets"
[[defense]]
name = "none"
[training]
recipe = "signs"
[[metric]]
name = "acc"
"""
KILLS = 8
PATIENCE = 300.0
"""Seconds until something is taken never to happen."""


@dataclass
class Sitting:
    """A run on the host `name`, with a working directory and temporary files of its own."""

    name: str
    temporary: Path
    process: subprocess.Popen[str]

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def begun(self) -> list[str]:
        """Return the kinds of the stages that are at work in it, or were when it was killed."""
        kinds = []
        for task in self.temporary.glob("doorbench-*/*/task.json"):
            kinds.append(json.loads(task.read_text())["kind"])
        return kinds


@dataclass
class Sittings:
    """The sittings on one store."""

    folder: Path
    environment: Mapping[str, str]
    epochs: int = 120
    all: list[Sitting] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def start(self, name: str, death: str = "never") -> Sitting:
        place = self.folder / name
        (place / "temporary").mkdir(parents=True)
        grid = GRID.replace("[[metric]]", f"epochs = {self.epochs}\n[[metric]]")
        (place / "grid.toml").write_text(grid)
        command = [sys.executable, "-m", "tests.kit.sitting", name, death, "run", "grid.toml"]
        command += ["--store", "../store", "--device", "cpu", "--jobs", "1", "--checkpoint", "0.1"]
        process = subprocess.Popen(
            command,
            cwd=place,
            env={**self.environment, "TMPDIR": str(place / "temporary")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        sitting = Sitting(name, place / "temporary", process)
        self.all.append(sitting)
        return sitting

    def worker(self) -> Sitting | None:
        """Return the sitting that works on the victim, by the store's notes; one that was killed
        stands there until another takes over.
        """
        for path in (self.store / "live").glob("*.json"):
            try:
                note = json.loads(path.read_text())
            except FileNotFoundError:
                continue
            if note["kind"] == "victim":
                name, _, _ = note["host"].partition("-")
                return next(sitting for sitting in self.all if sitting.name == name)
        return None

    def kept(self) -> dict[str, Any] | None:
        """Return the record of what is kept of the victim."""
        checkpoints = Store(self.store).checkpoints
        for key in checkpoints.held():
            manifest = checkpoints.manifest(key)
            if manifest is not None:
                return dict(manifest.record)
        return None

    def victim(self) -> dict[str, Any]:
        """Return the record of the victim that is in the store."""
        store = Store(self.store)
        for key in store.keys():  # noqa: SIM118
            manifest = store.manifest(key)
            if manifest is not None and manifest.spec["stage"] == "victim":
                return dict(manifest.record)
        raise AssertionError("there is no victim")


def wait(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def sittings(environment: Mapping[str, str], tmp_path: Path) -> Any:
    sittings = Sittings(tmp_path, environment)
    yield sittings
    for sitting in sittings.all:
        if not sitting.ended:
            os.kill(sitting.process.pid, signal.SIGKILL)
        sitting.process.communicate()


def test_a_training_is_handed_from_sitting_to_sitting_and_counted_once(
    sittings: Sittings,
) -> None:
    pair = [sittings.start("one", "writing"), sittings.start("two", "written")]
    wait(lambda: sittings.worker() is not None)
    first = sittings.worker()
    (second,) = [sitting for sitting in pair if sitting is not first]
    assert first is not None
    while not first.ended:
        assert "victim" not in second.begun()
        time.sleep(0.02)
    assert first.process.returncode == -signal.SIGKILL
    began = time.monotonic()
    one = sittings.kept()
    assert one is not None
    assert one["continued"] == 0

    wait(lambda: sittings.worker() is second)
    third = sittings.start("three")
    while not second.ended:
        assert "victim" not in third.begun()
        time.sleep(0.02)
    assert second.process.returncode == -signal.SIGKILL
    two = sittings.kept()
    assert two is not None
    assert two["continued"] == 1
    assert 0 < two["seconds"] - one["seconds"] < time.monotonic() - began
    assert two["cpu_seconds"] > one["cpu_seconds"]

    began = time.monotonic()
    errors = third.process.communicate(timeout=PATIENCE)[1]
    assert third.process.returncode == 0, errors
    assert "starts over" not in errors
    whole = sittings.victim()
    assert whole["continued"] == 2
    assert whole["images"] == sittings.epochs * TRAIN
    assert 0 < whole["seconds"] - two["seconds"] < time.monotonic() - began
    assert whole["cpu_seconds"] > two["cpu_seconds"]
    assert whole["images_per_second"] == pytest.approx(whole["images"] / whole["seconds"])
    assert sittings.kept() is None


@pytest.mark.slow
def test_sittings_that_are_killed_at_random_count_nothing_twice(sittings: Sittings) -> None:
    sittings.epochs = 400
    draw = random.Random(0)
    at_work = 0.0
    continued = 0
    seconds = 0.0
    sittings.start("host0")
    for kill in range(KILLS):
        sittings.start(f"host{kill + 1}")
        wait(lambda: sittings.worker() not in (None, *killed(sittings)))
        worker = sittings.worker()
        assert worker is not None
        began = time.monotonic()
        time.sleep(draw.uniform(0.0, 3.0))
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
        at_work += time.monotonic() - began + 0.5  # it may have begun a little earlier
        kept = sittings.kept()
        if kept is not None:
            assert kept["continued"] in (continued, continued + 1) or not seconds
            assert kept["seconds"] >= seconds
            continued, seconds = kept["continued"], kept["seconds"]

    began = time.monotonic()
    (last,) = [sitting for sitting in sittings.all if sitting not in killed(sittings)]
    assert last.process.wait(PATIENCE) == 0
    at_work += time.monotonic() - began
    whole = sittings.victim()
    assert seconds > 0
    assert whole["continued"] == continued + 1
    assert whole["images"] == sittings.epochs * TRAIN
    assert seconds < whole["seconds"] < at_work


def killed(sittings: Sittings) -> list[Sitting]:
    return [sitting for sitting in sittings.all if sitting.process.poll() == -signal.SIGKILL]
