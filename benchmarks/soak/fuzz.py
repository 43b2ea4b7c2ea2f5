"""Mutated grids, and mutated files that grids read.

Most steps put one mutated grid before `bench plan` (or `report`, `status`) and demand an exit code
that is documented, no traceback, and an end in bounded time and memory. In the others a sound grid
reads eight mutated files, which `bench run` must name where it cannot read them.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from benchmarks.soak import front, mutate, readable
from benchmarks.soak.ground import REAL, Ground, demand, told
from benchmarks.soak.kills import GRIDS, SMALL
from tests.kit.places import ROOT

FILES_SHARE = 0.02
"""Share of steps with mutated files."""
PLAN_CODES = {0, 2, 5}
LOOK_CODES = {0, 1, 2, 5}
"""Exit codes of `report` and `status`, which find no store."""
GROWTH = 1 << 30
"""Bytes that reading a grid may take beyond what was there."""
SELECTIONS = ("badnets", "not ft", "(a or b) and 0", "'", "((((", "none and not none", "0.0")

RICH = """
title = "Everything that a grid may say"
seeds = {victim = [0, 1], defense = [0, 2]}
[[dataset]]
name = "signs"
train = 300
test = 100
pool = 60
validation = 20
[[model]]
name = "small-cnn"
width = 4
training.epochs = 2
[[model]]
name = "resnet20"
as = "deep"
[[attack]]
name = "badnets"
sweep.poison_rate = [0.05, 0.1]
established = {asr = 0.5, acc = 0.3}
[[attack]]
name = "blend"
preset = "bcu"
training.recipe = "bcu"
[[attack]]
name = "wanet"
as = "warped"
seeds = [7]
[defender]
clean = 50
[[defense]]
name = "none"
[[defense]]
name = "ft"
epochs = 2
grant.clean-labelled = 0.5
[[defense]]
name = "bcu"
as = "Ours"
grant.clean-unlabelled = {dataset = {name = "signs", seed = 9, train = 40, pool = 30}, count = 20}
[[defense]]
name = "nad"
on = "Ours"
teacher = {name = "ft", epochs = 3}
[[block]]
model = ["deep"]
attack = ["warped", "blend"]
defense = ["none", "ft"]
set.defense.epochs = 1
[[block]]
seeds = [0, 1, 2]
attack = ["badnets"]
[training]
recipe = "signs"
epochs = 3
precision = "fp32"
[[metric]]
name = "acc"
[[metric]]
name = "asr"
[[table]]
rows = ["attack"]
columns = ["defense", "metric"]
over = ["seed", "model"]
average = true
"""


def corpus() -> Sequence[str]:
    """Return the grids that mutations start from."""
    shipped = ("quickstart.toml", "cifar10-small.toml", "speed/equal.toml")
    texts = [(ROOT / "benchmarks" / name).read_text("utf-8") for name in shipped]
    return (RICH, RICH, RICH, SMALL, *GRIDS, *texts)


def attempt(draw: Random, ground: Ground, folder: Path, tries: Counter[str]) -> None:
    """Mutate one grid, or some files."""
    if draw.random() < FILES_SHARE:
        try_files(draw, ground, folder, tries)
    else:
        try_grid(draw, ground, folder, tries)


def try_grid(draw: Random, ground: Ground, folder: Path, tries: Counter[str]) -> None:
    """Put a mutated grid before a command."""
    grid = folder / "grid.toml"
    grid.write_bytes(mutate.grid(draw, draw.choice(corpus())))
    verb = draw.choice(("plan", "plan", "plan", "plan", "plan --explain", "report", "status"))
    name, *flags = verb.split()
    words: list[object] = [name, grid, "--store", folder / "store", *flags]
    if name == "plan" and draw.random() < 0.2:
        words += ["-k", draw.choice(SELECTIONS)]
    tries[f"grids before {name}"] += 1
    answer = front.bench(words, ground.around(folder), folder, ground.site)
    allowed = PLAN_CODES if name == "plan" else LOOK_CODES
    demand(answer.code in allowed, f"bench {verb}: exit code {answer.code}: {answer.said[-3000:]}")
    demand("Traceback" not in answer.said, f"bench {verb}: a traceback: {answer.said[-3000:]}")
    if answer.code == 2:
        named = "grid.toml" in answer.said or "plugin" in answer.said or "-k" in answer.said
        demand(named, f"bench {verb}: refused without saying where: {answer.said[-1000:]}")
    if answer.code == 0 and name == "plan":
        demand(" cells: " in answer.said, f"bench {verb}: says nothing: {answer.said[-1000:]}")
    demand(answer.memory < GROWTH, f"bench {verb}: {answer.memory >> 20} MiB of memory")


def try_files(draw: Random, ground: Ground, folder: Path, tries: Counter[str]) -> None:
    """Let a sound grid read mutated files."""
    readers = readable.mutated(draw, folder)
    for reader in readers:
        tries[f"files: {reader.what}"] += 1
    environment = ground.around(folder)
    grid = folder / "grid.toml"
    told_before = ""
    while True:
        grid.write_text(readable.grid(readers), "utf-8")
        words = ("plan", grid, "--store", folder / "store")
        answer = front.bench(words, environment, folder, ground.site)
        demand("Traceback" not in answer.said, f"plan: a traceback: {answer.said[-3000:]}")
        demand(answer.code in PLAN_CODES, f"plan: exit code {answer.code}: {answer.said[-3000:]}")
        if answer.code == 0:
            break
        # What the plan refuses it must name; the others go on.
        left = [reader for reader in readers if reader.file not in answer.said]
        demand(len(left) < len(readers), f"plan names no file: {answer.said[-3000:]}")
        told_before = answer.said
        readers = left
    (folder / "refused.txt").write_text(told_before, "utf-8", "replace")
    words = ("run", grid, "--store", folder / "store")
    result = ground.bench(REAL, *words, env=environment, cwd=folder)
    demand(result.returncode in (0, 1), f"run: exit code {result.returncode}: {told(result)}")
    # A stage's failure is told without one; its log has it.
    demand("Traceback" not in result.stderr, f"run: a traceback: {told(result)}")
    asked = ("report", grid, "--store", folder / "store", "--format", "csv")
    report = ground.bench(REAL, *asked, env=environment, cwd=folder)
    rows = list(csv.DictReader(io.StringIO(report.stdout)))
    demand(bool(rows), f"report: {told(report)}")
    for row in rows:
        check_row(row, readers)


def check_row(row: dict[str, str], readers: Sequence[readable.Reader]) -> None:
    """Raise Broken unless a row has its number, or a reason that names the file that it lacks."""
    if row["status"] == "done":
        return
    place = f"{row['dataset']}, {row['attack']}, {row['metric']}"
    if row["status"] == "incompatible" and re.search("no trigger|no number", row["reason"]):
        return
    files = [reader.file for reader in readers if reader.label in (row["dataset"], row["attack"])]
    demand(bool(files), f"{place} reads nothing that was altered: {row['reason']}")
    named = any(file in row["reason"] for file in files)
    demand(named, f"{place} is {row['status']} and does not name {files}: {row['reason']}")
