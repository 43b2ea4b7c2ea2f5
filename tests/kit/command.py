"""The command line as a user calls it, and the one small grid that a session runs once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.kit.places import ROOT

Bench = Callable[..., subprocess.CompletedProcess[str]]
Call = Callable[..., tuple[int, str, str]]
"""Runs a command in this process; returns exit code, output and errors."""

GRID = """
title = "Every kind of defense, small"
seeds = [0, 1]

[[dataset]]
name = "signs"
train = 1500
test = 300
pool = 100
validation = 50

[[model]]
name = "small-cnn"
width = 8

[[attack]]
name = "none"
[[attack]]
name = "badnets"
poison_rate = 0.1
established = {asr = 0.5, acc = 0.3}
[[attack]]
name = "wanet"
training.recipe = "signs"
training.epochs = 2
established = {asr = 1.0}

[defender]
clean = 80

[[defense]]
name = "none"
[[defense]]
name = "ft"
epochs = 2
batch = 32
[[defense]]
name = "nad"
epochs = 1
batch = 32
schedule = "constant"
rates = []
lr = 0.01
teacher = {name = "ft", epochs = 2, batch = 32}
[[defense]]
name = "retrain"
[[defense]]
name = "scan"
[[defense]]
name = "widen"
[[defense]]
name = "ft"
as = "widen, then ft"
on = "widen"
epochs = 1
batch = 32

[training]
recipe = "signs"
epochs = 6

[[metric]]
name = "acc"
[[metric]]
name = "asr"
[[metric]]
name = "weight-norm"

[[table]]
rows = ["attack"]
columns = ["defense", "metric"]
over = ["seed"]
"""


@dataclass(frozen=True)
class Ran:
    """A grid that was run: its file, its store, and what the run printed."""

    grid: Path
    store: Path
    result: subprocess.CompletedProcess[str]


def user_environment(site: Path, cache: Path) -> dict[str, str]:
    """Return the environment of a user who has what is in `site` installed and has never run
    `bench`.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BENCH_", "PYTEST"))
    }
    path = os.pathsep.join([str(ROOT), str(site), *filter(None, [kept.get("PYTHONPATH")])])
    more = {"PYTHONPATH": path, "BENCH_CACHE": str(cache), "COLUMNS": "200", "NO_COLOR": "1"}
    return {**kept, **more}
