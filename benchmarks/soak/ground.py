"""The ground that campaigns work on: folders, the environment of a user who has the probes
installed, grids, and what an undisturbed run makes of each.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.report.columns import VOLATILE
from harness.stages.artefacts import RESULT_FILE
from harness.store import disk
from harness.store.objects import Store
from tests.kit.command import user_environment
from tests.kit.fake_plugins import install_probes
from tests.kit.places import ROOT
from tests.kit.processes import marked

REAL, LIGHT = "harness.cli", "benchmarks.soak.stand_in"
"""Modules that are `bench`, and `bench` with stages that need no torch."""
PATIENCE = 300
"""Seconds after which a command counts as hung, on a machine that may be busy."""
ORPHANS = 30
"""Seconds that processes of a run may outlive it."""

PROBE = re.compile(r"[a-z0-9_]{8}")
"""The name of a file by which Python's `tempfile` tries a folder."""

Table = list[dict[str, str]]
"""The rows of a report without what may differ between two runs that give the same numbers."""

Contents = Mapping[str, Mapping[str, str]]
"""SHA-256 of the files of objects, by key and name."""


class Broken(Exception):
    """Raised where the harness did not keep a promise; the message says which."""


def demand(kept: bool, message: str) -> None:
    """Raise Broken with this message unless the promise was kept."""
    if not kept:
        raise Broken(message)


@dataclass(frozen=True)
class Expected:
    """A grid's finished store and table, as a run made them that nobody disturbed."""

    grid: Path
    store: Path
    table: Table
    contents: Contents


class Ground:
    """A folder with everything that the tries of a campaign share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = install_probes(folder / "site")
        self.cache = folder / "cache"
        self.environment = user_environment(self.site, self.cache)
        # Stages of one thread each leave nothing for more threads of commands to do.
        self.environment["OMP_NUM_THREADS"] = "1"
        self._expected: dict[tuple[str, str], Expected] = {}

    def around(self, place: Path, **more: str) -> dict[str, str]:
        """Return the environment of commands with a folder of their own for temporary files, which
        is made.
        """
        temporary = place / "temporary"
        temporary.mkdir(parents=True, exist_ok=True)
        return {**self.environment, "TMPDIR": str(temporary), **more}

    def bench(
        self, module: str, *words: object, env: Mapping[str, str], cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end. Raises Broken where it hangs."""
        command = line(module, *words)
        try:
            return subprocess.run(
                command,
                env=dict(env),
                cwd=cwd or ROOT,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            words_told = " ".join(map(str, words))
            raise Broken(f"no end of `bench {words_told}` after {PATIENCE} s") from None

    def table(self, module: str, grid: Path, store: Path, env: Mapping[str, str]) -> Table:
        """Report what a store has of a grid. Raises Broken where the report cannot be made."""
        words = ("report", grid, "--store", store, "--format", "csv", "--full")
        result = self.bench(module, *words, env=env)
        demand(
            result.returncode in (0, 1), f"report: exit code {result.returncode}: {told(result)}"
        )
        demand("Traceback" not in result.stderr, f"report: {told(result)}")
        rows = list(csv.DictReader(io.StringIO(result.stdout)))
        for row in rows:
            for name in VOLATILE:
                del row[name]
        return rows

    def expected(self, module: str, text: str) -> Expected:
        """Return what an undisturbed run makes of a grid; each grid is run once.

        Raises RuntimeError where it does not come to a good end.
        """
        if (module, text) not in self._expected:
            place = self.folder / f"undisturbed{len(self._expected)}"
            place.mkdir()
            grid = place / "grid.toml"
            grid.write_text(text, "utf-8")
            environment = self.around(place)
            store = place / "store"
            result = self.bench(module, "run", grid, "--store", store, env=environment)
            if result.returncode != 0:
                raise RuntimeError(f"a grid does not run even undisturbed: {told(result)}")
            table = self.table(module, grid, store, environment)
            self._expected[module, text] = Expected(grid, store, table, contents(store))
        return self._expected[module, text]

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)


def line(module: str, *words: object) -> list[str]:
    """Return the command line of a `bench` command."""
    return [sys.executable, "-m", module, *map(str, words)]


def told(result: subprocess.CompletedProcess[str]) -> str:
    """Return the end of what a command said."""
    return result.stderr[-3000:]


def contents(root: Path) -> Contents:
    """Return the SHA-256 of each file of each object, after a look at them all. Raises Broken where
    one is not whole.
    """
    store = Store(root)
    found: dict[str, dict[str, str]] = {}
    for key in list(store.keys()):
        manifest = store.manifest(key)
        if manifest is None:
            raise Broken(f"object {key} is not whole")
        found[key] = {}
        for name, entry in manifest.files.items():
            data = (root / "objects" / key[:2] / key / name).read_bytes()
            checksum = hashlib.sha256(data).hexdigest()
            demand(checksum == entry["sha256"], f"{name} of object {key} is altered")
            if name == RESULT_FILE:
                checksum = hashlib.sha256(_untimed(data)).hexdigest()
            found[key][name] = checksum
    return found


def _untimed(data: bytes) -> bytes:
    """Return the result of a defense without the seconds that it took."""
    result = json.loads(data)
    del result["record"]["seconds"]
    return json.dumps(result).encode()


def check_table(found: Table, expected: Table) -> None:
    """Raise Broken where a table is not that of the undisturbed run."""
    demand(len(found) == len(expected), f"{len(found)} rows, not {len(expected)}")
    for one, other in zip(found, expected, strict=True):
        for name, value in other.items():
            place = ", ".join(one[column] for column in ("attack", "defense", "metric"))
            demand(one[name] == value, f"{name} of {place}: {one[name]!r}, not {value!r}")


def check_nothing_left(store: Path, temporary: Path, undisturbed: Path) -> None:
    """Raise Broken where a run that came to its end left something of dead runs, in their folder
    for temporary files or in the store: more than an undisturbed run leaves there.
    """
    check_temporary(temporary)
    for folder in ("tmp", "live", "failures"):
        # Stages that make no sense are noted among the failures, in any run.
        left = sorted(disk.names(f"{store}/{folder}") - disk.names(f"{undisturbed}/{folder}"))
        demand(not left, f"left in {folder}/ of the store: {left}")


def check_temporary(temporary: Path) -> None:
    """Raise Broken where processes outlive their run, or leave something in their folder for
    temporary files.
    """
    check_orphans(temporary)
    left = []
    for path in temporary.iterdir():
        # Python looks whether it can write there, with a file that is gone at once; a process that
        # is killed in that moment leaves it.
        if not (PROBE.fullmatch(path.name) and path.is_file()):
            left.append(path.name)
    demand(not left, f"left in the folder for temporary files: {sorted(left)}")


def check_orphans(temporary: Path, patience: float = ORPHANS) -> None:
    """Raise Broken where processes outlive their run."""
    until = time.monotonic() + patience
    while found := alive(temporary):
        demand(time.monotonic() < until, f"processes outlived their run: {found}")
        time.sleep(0.05)


def alive(temporary: Path) -> dict[int, str]:
    """Return the processes that work below a folder, with their command lines."""
    found = {}
    for pid in marked(temporary):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        found[pid] = command.replace(b"\0", b" ").decode("utf-8", "replace")[:200]
    return found


def end_all(temporary: Path) -> None:
    """Kill every process that works below a folder."""
    for pid in alive(temporary):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def entries(names: Sequence[str], kind: str) -> str:
    """Write entries of one kind that have a name and nothing else."""
    return "".join(f'[[{kind}]]\nname = "{name}"\n' for name in names)


def busy() -> str:
    """Say how busy the machine is."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
