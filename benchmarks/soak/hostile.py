"""Stages and plugins that mean harm, beside innocent ones.

Most steps run a grid with some hostile defenses among innocent cells, at one to three stages at
once: what is hostile fails with its reason, or ends well where it did no harm, and the innocents
have the numbers that they have alone. In the others a package is installed that does harm while it
is imported or registers its components: it is listed as broken, and a finished grid is as it was.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random

from benchmarks.soak.ground import (
    REAL,
    Ground,
    Table,
    check_table,
    check_temporary,
    demand,
    told,
)
from tests.kit.fake_plugins import install, registering
from tests.kit.harms import GREEDY, HARMLESS, HARMS, HEAD, hostile

PACKAGE_SHARE = 0.25
"""Share of steps with a hostile package."""
TIMEOUT = 40
"""Seconds of a stage; long, since an innocent stage on a busy machine must not run out of it."""
SLOW = ("hang", "stop-server", "kill-server")
"""Ways that take a time-out or several starts of the fork server: at most one a step."""
INNOCENT = (
    HEAD
    + '[[defense]]\nname = "fine-pruning"\nepochs = 1\n'
    + '[[defense]]\nname = "widen"\n'
    + '[[defense]]\nname = "ft"\nas = "again"\non = "widen"\nepochs = 1\n'
)
LOOKING = ("open", "open-tensors", "siblings", "poison-siblings")
"""Ways of looking where nothing was granted; who waits for a neighbour may find none."""
SLEEPERS = """
import subprocess, sys
command = [sys.executable, '-S', '-c', 'import time; time.sleep(600)']
for own in (True, False) * 8:
    subprocess.Popen(command, start_new_session=own)
"""
ANSWERS = r"""
import sys
with open(sys.argv[2], "a") as reply:
    reply.write('{"number": 0, "ok": 3}\n[]\n{"number": []}\n\x00\xff\n' * 100)
"""
PACKAGES: Mapping[str, str] = {
    "leaves": "raise SystemExit(0)",
    "ends": "import os; os._exit(0)",
    "raises": "raise RuntimeError('no')",
    "raises what nobody catches": "raise BaseException('no')",
    "interrupts": "raise KeyboardInterrupt",
    "crashes": "import ctypes; ctypes.string_at(0)",
    "kills itself": "import os; os.kill(os.getpid(), 9)",
    "kills its group": "import os; os.killpg(0, 9)",
    "prints": "for _ in range(30): print('x' * 1_000_000)",
    "starts processes": SLEEPERS,
    "closes files": "import os; os.closerange(0, 256)",
    "moves": "import os, shutil; shutil.rmtree(os.getcwd()); os.chdir('/')",
    "answers for others": ANSWERS,
    "breaks json": "import json; json.dumps = None",
    "breaks print": "import sys; sys.stdout = sys.stderr = None",
    "is deep": "def down(): down()\ndown()",
    "is no code": "this is not Python",
    "takes memory": "bytearray(1 << 46)",
}
"""What hostile packages do when they are imported."""
BODIES: Mapping[str, str] = {
    "registers nonsense": "register.defense('../x', 'no target')",
    "registers numbers": "register.defense(3, None)",
    "registers many": "[register.defense(f'many-{n}', 'm:C') for n in range(5000)]",
    "registers what is not there": "register.attack('ghost', 'nowhere_at_all:Ghost')",
    "registers a huge recipe": "register.recipe('huge', {'epochs': 10 ** 400})",
    "registers itself": "register.defense('self', register)",
    "raises when asked": "raise ValueError('\\ud800 \\x1b[2J' + 'x' * 10 ** 6)",
    "ends when asked": "import os; os._exit(7)",
}
"""What hostile packages do when they register."""


def attempt(draw: Random, ground: Ground, folder: Path, tries: Counter[str]) -> None:
    """Let hostile stages, or a hostile package, do their worst."""
    if draw.random() < PACKAGE_SHARE:
        try_package(draw, ground, folder, tries)
    else:
        try_stages(draw, ground, folder, tries)


def try_stages(draw: Random, ground: Ground, folder: Path, tries: Counter[str]) -> None:
    """Run hostile defenses among innocent ones."""
    expected = ground.expected(REAL, INNOCENT)
    chosen = draw.sample([*HARMS, *GREEDY, *HARMLESS, *LOOKING], draw.randint(3, 7))
    slow = [how for how in chosen if how in SLOW]
    chosen = [how for how in chosen if how not in slow[1:]]
    store = folder / "store"
    entries = [entry(how, store) for how in chosen]
    grid = folder / "grid.toml"
    grid.write_text(INNOCENT + "".join(entries), "utf-8")
    environment = ground.around(folder)
    words = ("run", grid, "--store", store, "--timeout", TIMEOUT, "--jobs", draw.randint(1, 3))
    for how in chosen:
        tries[how] += 1
    result = ground.bench(REAL, *words, env=environment)
    demand(result.returncode in (0, 1), f"exit code {result.returncode}: {told(result)}")
    demand("Traceback" not in result.stderr, told(result))
    check_temporary(folder / "temporary")
    table = ground.table(REAL, grid, store, environment)
    innocents = [row for row in table if row["defense"] not in chosen]
    check_table(innocents, expected.table)
    for how in chosen:
        check_cell(how, [row for row in table if row["defense"] == how])


def entry(how: str, store: Path) -> str:
    """Write the entry of one hostile defense."""
    if how in GREEDY:
        return hostile(how, "greedy")
    if how in ("open", "open-tensors"):
        return hostile(how, where=store / "objects")
    return hostile(how)


def check_cell(how: str, rows: Table) -> None:
    """Raise Broken unless a hostile cell has failed for the right reason, or did no harm."""
    demand(bool(rows), f"{how}: no rows")
    for row in rows:
        if row["metric"] not in ("acc", "asr"):
            continue
        said = f"{how}: {row['status']}: {row['reason']}"
        demand(row["status"] in ("done", "failed", "timed out"), said)
        demand(row["status"] == "done" or bool(row["reason"]), said)
        if how in HARMLESS:
            demand(row["status"] == "done", said)
        reason = HARMS.get(how) or GREEDY.get(how)
        if how in ("open", "open-tensors"):
            reason = "opened"
        if reason:
            demand(row["status"] != "done" and reason in row["reason"], said)


def try_package(draw: Random, ground: Ground, folder: Path, tries: Counter[str]) -> None:
    """Install a hostile package beside the others, and look at a grid that is finished."""
    expected = ground.expected(REAL, INNOCENT)
    how = draw.choice([*PACKAGES, *BODIES])
    text = PACKAGES.get(how, "")
    text += registering(BODIES.get(how, "register.defense('meek', 'meek:Meek')"))
    site = install(folder / "site", "hostile-package", {"hostile_package": text})
    environment = ground.around(folder, BENCH_CACHE=str(folder / "cache"))
    environment["PYTHONPATH"] += f":{site}"
    store = folder / "store"
    shutil.copytree(expected.store, store)
    tries[f"a package {how}"] += 1
    listed = ground.bench(REAL, "list", env=environment)
    demand(listed.returncode == 0, f"{how}: list: exit code {listed.returncode}: {told(listed)}")
    demand("Traceback" not in listed.stderr, f"{how}: list: {told(listed)}")
    demand("hostile-package" in listed.stdout + listed.stderr, f"{how}: nobody lists it")
    words = ("run", expected.grid, "--store", store)
    result = ground.bench(REAL, *words, env=environment)
    demand(result.returncode == 0, f"{how}: run: exit code {result.returncode}: {told(result)}")
    demand(" 0 to run" in result.stderr, f"{how}: something was made again: {told(result)}")
    table = ground.table(REAL, expected.grid, store, environment)
    check_table(table, expected.table)
    check_temporary(folder / "temporary")
