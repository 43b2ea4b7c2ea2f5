"""Signals at random times, to runs, to their fork servers and to their children; then one run to
the end, and the promises of docs/store.md and docs/commands.md.

A step is one store: one run or two work on it, are killed or interrupted and started again, a dozen
times or until all is done. Each signal that reached a living process is a try. A share of the steps
has real stages, half of these with nothing remembered of plugins, so that the children that are
asked about them can be hit as well; in the others stages need no torch.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import IO

from benchmarks.soak.ground import (
    LIGHT,
    PATIENCE,
    REAL,
    Expected,
    Ground,
    check_nothing_left,
    check_orphans,
    check_table,
    contents,
    demand,
    end_all,
    entries,
    line,
    told,
)
from benchmarks.soak.stand_in import NOTED
from tests.kit.processes import marked

REAL_SHARE = 0.125
"""Share of steps with real stages."""
NUMBERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STATUS = {signal.SIGKILL: {-9}, signal.SIGTERM: {143, -15}, signal.SIGINT: {130, -2}}
"""How a run may end that a signal ended: by a status of its own or, while Python starts or ends, by
the signal.
"""
MOMENT = 50_000_000
"""Nanoseconds by which the clocks of a process and of the file system may differ."""

HEAD = """
seeds = {seeds}
[[dataset]]
name = "signs"
train = 300
test = 100
pool = 60
[[model]]
name = "small-cnn"
width = 4
[training]
recipe = "signs"
epochs = 1
"""
SHORT = "epochs = 1\nbatch = 30\n"
METRICS = entries(["acc", "asr"], "metric")
CHAINED = '[[defense]]\nname = "ft"\nas = "again"\non = "nad"\n'
GRIDS = (
    HEAD.format(seeds=[0, 1])
    + entries(["badnets", "blend", "sig", "wanet"], "attack")
    + entries(["none", "ft", "nad", "abl"], "defense")
    + CHAINED
    + METRICS,
    HEAD.format(seeds=[0, 1, 2, 3, 4, 5])
    + entries(["none", "badnets"], "attack")
    + entries(["none", "ft", "anp", "scan"], "defense")
    + METRICS,
    HEAD.format(seeds=[0])
    + entries(["badnets", "blend", "sig", "wanet", "iab", "trojan-wm", "none"], "attack")
    + entries(["none", "ft", "fine-pruning", "nad", "i-bau", "mcr", "retrain"], "defense")
    + METRICS,
)
"""Grids for stages that need no torch: long chains, many replicates, many methods."""
SMALL = (
    HEAD.format(seeds=[0])
    + entries(["badnets", "none"], "attack")
    + entries(["none", "scan"], "defense")
    + f'[[defense]]\nname = "ft"\n{SHORT}[[defense]]\nname = "widen"\n'
    + METRICS
    + entries(["weight-norm"], "metric")
)
"""A grid for real stages: some 15 of them, of some tens of milliseconds."""


class Run:
    """A run of `bench` that signals are sent to."""

    def __init__(self, command: list[str], environment: dict[str, str], output: Path) -> None:
        self.sent: list[signal.Signals] = []
        self.to_stages = 0
        """Signals that went to its fork server or to a child."""
        self.output = output
        self._stream: IO[bytes] = output.open("wb")
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._stream,
            stderr=self._stream,
            start_new_session=True,
        )

    def running(self) -> bool:
        """Tell whether it has not ended."""
        return self.process.poll() is None

    def close(self) -> None:
        """Wait for the end, and check how it ended. Raises Broken."""
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            code = None
        self._stream.close()
        said = self.output.read_text("utf-8", "replace")
        demand(
            code is not None,
            f"a run did not end within {PATIENCE} s of {self.sent}:\n{said[-2000:]}",
        )
        allowed = {0}
        for number in self.sent:
            allowed |= STATUS[number]
        if self.to_stages >= 3:
            allowed.add(1)  # some stage was killed three times, and its cells have failed
        if signal.SIGINT in self.sent and starting(said):
            return  # Python's own words on what it was importing, and its own exit code
        demand(code in allowed, f"exit code {code} after {self.sent}:\n{said[-2000:]}")
        if code in (-15, -2) and len(self.sent) == 1:
            at_work = "stages to run on" in said and " done in " not in said
            demand(not at_work, f"ended by the signal itself while at work:\n{said[-2000:]}")
        demand("Traceback" not in said, f"a traceback:\n{said[-3000:]}")
        demand("bug in bench" not in said, f"a bug:\n{said[-3000:]}")


def starting(said: str) -> bool:
    """Tell whether a run was interrupted before `bench` had said anything, while modules were
    imported.
    """
    return said.startswith(("Traceback", "Fatal Python error: init")) or not said


class Siege:
    """One store, the runs on it, and the signals that these got."""

    def __init__(self, draw: Random, ground: Ground, folder: Path, tries: Counter[str]) -> None:
        self.draw = draw
        self.folder = folder
        self.is_real = draw.random() < REAL_SHARE
        self.module = REAL if self.is_real else LIGHT
        text = SMALL if self.is_real else draw.choice(GRIDS)
        self.expected: Expected = ground.expected(self.module, text)
        self.environment = ground.around(folder)
        self.temporary = folder / "temporary"
        self.forgets = self.is_real and draw.random() < 0.5
        if self.forgets:
            self.environment["BENCH_CACHE"] = str(folder / "cache")
        self.store = folder / "store"
        self.at_once = draw.choice((1, 1, 2))
        self.longest = 5.0 if self.is_real else 1.6
        """Seconds until a signal, at most: about what a run takes."""
        self.runs: list[Run] = []
        self.started = 0
        self.done = False
        self.tries = tries
        self.wanted = tries.total() + draw.randint(6, 16)
        self.seen: dict[str, tuple[int, int]] = {}
        """Objects seen between signals: inode and time of the change that put each there."""

    def command(self) -> list[str]:
        """Return the command line of a run."""
        jobs = self.draw.choice((1, 2, 2, 3))
        words = ("run", self.expected.grid, "--store", self.store, "--jobs", jobs)
        return line(self.module, *words)

    def go(self) -> None:
        """Send signals until there were enough, or all work is done."""
        until = time.monotonic() + 120
        while not self.done and self.tries.total() < self.wanted and time.monotonic() < until:
            self.supply()
            if self.draw.random() < 0.8:
                self.wait_for_work()
            time.sleep(self.draw.uniform(0, self.longest) * self.draw.random())
            self.strike()
            if self.draw.random() < 0.4:  # and again before anything has come to rest
                self.strike()
            self.look()

    def supply(self) -> None:
        """Start what runs are lacking."""
        while len(self.runs) < self.at_once:
            output = self.folder / f"output{self.started}.txt"
            self.runs.append(Run(self.command(), self.environment, output))
            self.started += 1

    def wait_for_work(self) -> None:
        """Wait until some run has said something: until then most of it is Python's start."""
        until = time.monotonic() + 10
        while time.monotonic() < until:
            for run in self.runs:
                if not run.running() or run.output.stat().st_size:
                    return
            time.sleep(0.01)

    def look(self) -> None:
        """Take note of runs that ended and of the objects that are there."""
        for run in list(self.runs):
            if not run.running():
                self.runs.remove(run)
                run.close()
                self.done = self.done or run.process.returncode == 0
        if not self.runs:
            check_orphans(self.temporary)
        self.note_objects()

    def note_objects(self) -> None:
        """Remember each object at first sight. Raises Broken where another is in its place now."""
        for path in (self.store / "objects").glob("*/*"):
            try:
                status = path.stat()
            except OSError:
                continue
            identity = (status.st_ino, status.st_ctime_ns)
            known = self.seen.setdefault(path.name, identity)
            demand(known == identity, f"object {path.name} was made twice")

    def strike(self) -> None:
        """Send a signal or two, somewhere: to a process of a kind that there is."""
        run = self.draw.choice(self.runs)
        found = marked(self.temporary)
        servers = [pid for pid, is_server in found.items() if is_server]
        stages = [pid for pid, is_server in found.items() if not is_server]
        asked = asked_by([run.process.pid for run in self.runs])
        stages = sorted(set(stages) - set(asked))
        aims = ["run", "run", "group"]
        aims += ["server"] * bool(servers) + ["stage"] * 3 * bool(stages) + ["asked"] * bool(asked)
        aim = self.draw.choice(aims)
        number = self.draw.choice(NUMBERS)
        if aim == "run":
            self.send(run, number, "to a run")
            if self.draw.random() < 0.3:
                time.sleep(self.draw.uniform(0, 0.3))
                self.send(run, self.draw.choice(NUMBERS), "to a run, once more")
        elif aim == "group":
            self.send(run, number, "to a run's process group", group=True)
        elif aim == "asked":
            self.hit(asked, "to a child that is asked")
        elif aim == "server":
            self.hit(servers, "to a fork server")
        else:
            self.hit(stages, "to a stage")

    def send(self, run: Run, number: signal.Signals, whom: str, *, group: bool = False) -> None:
        """Send a signal to a run that is alive."""
        if not run.running():
            return
        run.sent.append(number)
        pid = run.process.pid
        with suppress(ProcessLookupError):
            if group:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
            self.tries[f"{number.name} {whom}"] += 1

    def hit(self, pids: list[int], whom: str) -> None:
        """Send a signal to one of these processes."""
        number = self.draw.choice(NUMBERS)
        with suppress(ProcessLookupError):
            os.kill(self.draw.choice(sorted(pids)), number)
            self.tries[f"{number.name} {whom}"] += 1
            for run in self.runs:
                run.to_stages += 1

    def end(self, ground: Ground) -> None:
        """Let what still runs come to its end, run once more, and check everything. Raises
        Broken.
        """
        for run in self.runs:
            run.close()
        self.runs = []
        self.note_objects()
        words = ("run", self.expected.grid, "--store", self.store)
        final = ground.bench(self.module, *words, env=self.environment)
        demand(final.returncode == 0, f"at last, exit code {final.returncode}: {told(final)}")
        demand("Traceback" not in final.stderr, f"at last: {told(final)}")
        self.note_objects()
        check_nothing_left(self.store, self.temporary, self.expected.store)
        table = ground.table(self.module, self.expected.grid, self.store, self.environment)
        check_table(table, self.expected.table)
        demand(
            contents(self.store) == self.expected.contents, "objects differ from undisturbed ones"
        )
        self.check_executions()

    def check_executions(self) -> None:
        """Raise Broken where a stage started whose object was there already."""
        notes = self.folder / NOTED
        if self.is_real:
            return  # its stages leave no note; that no object is replaced has been seen
        committed = {key[:16]: changed for key, (_, changed) in self.seen.items()}
        for note in notes.read_text("utf-8").splitlines():
            key, began = note.split()
            late = int(began) > committed[key] + MOMENT
            demand(not late, f"stage {key} ran again after its object was there")


def asked_by(parents: list[int]) -> list[int]:
    """Return the processes that answer questions about plugins for these runs."""
    found = []
    for parent in parents:
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii").split()
        except OSError:
            continue
        for pid in children:
            with suppress(OSError):
                if b"harness.introspect" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
    return found


def attempt(draw: Random, ground: Ground, folder: Path, tries: Counter[str]) -> None:
    """Besiege one store, then let it be finished, and check it."""
    siege = Siege(draw, ground, folder, tries)
    try:
        siege.go()
        siege.end(ground)
    finally:
        for run in siege.runs:
            run.process.kill()
        end_all(siege.temporary)
