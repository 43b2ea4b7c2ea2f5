"""A training that is interrupted, terminated and paused, and what commands say of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.store.objects import Store
from tests.kit.command import Bench

GRID = """
seeds = [0]
[[dataset]]
name = "signs"
train = 1000
test = 100
[[model]]
name = "small-cnn"
width = 8
[[attack]]
name = "badnets"
[[defense]]
name = "none"
[training]
recipe = "signs"
epochs = 120
[[metric]]
name = "acc"
"""


def digests(folder: Path) -> dict[str, str]:
    store = Store(folder)
    found = {}
    for key in store.keys():  # noqa: SIM118
        manifest = store.manifest(key)
        assert manifest is not None
        if manifest.spec["stage"] != "score":
            found[key] = manifest.digest
    return found


def victim(folder: Path) -> dict[str, Any]:
    """Return the record of the victim."""
    store = Store(folder)
    for key in store.keys():  # noqa: SIM118
        manifest = store.manifest(key)
        if manifest is not None and manifest.spec["stage"] == "victim":
            return manifest.record
    raise AssertionError("there is no victim")


class Runs:
    """Runs of one grid on one store, each of which keeps its state ten times a second."""

    def __init__(self, grid: Path, store: Path, environment: Mapping[str, str]) -> None:
        self.store = store
        self.command = ["run", str(grid), "--store", str(store), "--device", "cpu"]
        self.command += ["--checkpoint", "0.1"]
        self.environment = environment

    def stopped(self, number: int) -> tuple[int, str]:
        """Run until the training has been at work for some epochs, and send a signal; return the
        exit code and what was printed.
        """
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.kit.sitting", "here", "never", *self.command],
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        until = time.monotonic() + 120
        place = self.place()
        while process.poll() is None and (not self.place() or self.place() == place):
            assert time.monotonic() < until
            time.sleep(0.05)
        os.kill(process.pid, number)
        errors = process.communicate(timeout=60)[1]
        return process.returncode, errors

    def place(self) -> str:
        """Return where the training is that runs now."""
        for path in (self.store / "live").glob("*.json"):
            try:
                progress = json.loads(path.read_text())["progress"] or {}
            except (OSError, ValueError):
                continue
            if progress.get("place"):
                return str(progress["place"])
        return ""


def test_a_training_goes_on_after_every_kind_of_end(
    bench: Bench, environment: Mapping[str, str], tmp_path: Path
) -> None:
    grid, store = tmp_path / "grid.toml", tmp_path / "store"
    grid.write_text(GRID)
    assert (
        bench("run", grid, "--store", tmp_path / "undisturbed", "--device", "cpu").returncode == 0
    )
    runs = Runs(grid, store, environment)

    assert runs.stopped(signal.SIGINT)[0] == 130
    told = bench("status", "--store", store).stdout
    assert "paused: 1\n  victim  badnets\n    kept at epoch " in told
    assert " of 120, " in told
    assert "nothing has failed" in told
    assert "badnets" in bench("report", grid, "--store", store).stdout
    assert "paused" in bench("report", grid, "--store", store).stdout

    assert runs.stopped(signal.SIGTERM)[0] == 143
    assert "continued once" in bench("status", grid, "--store", store).stdout

    late = bench(*runs.command, "--timeout", "0.7", "--on-timeout", "pause", env=environment)
    assert late.returncode == 1
    assert "paused" in late.stderr
    assert "its time was up, and its state is kept" in late.stderr
    assert "waits for victim (badnets), which is paused" in late.stderr
    assert "continued twice" in bench("status", "--store", store).stdout

    assert bench(*runs.command).returncode == 0
    assert digests(store) == digests(tmp_path / "undisturbed")
    assert not list((store / "checkpoints").iterdir())
    undisturbed, continued = victim(tmp_path / "undisturbed"), victim(store)
    assert continued["continued"] == 3
    assert continued["images"] == undisturbed["images"]
    assert "continued" not in undisturbed
    assert "paused" not in bench("status", grid, "--store", store).stdout
