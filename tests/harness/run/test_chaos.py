"""Kill -9 at random times, 30 times: nothing wrong, nothing twice, nothing left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from harness.run.execute import execute
from harness.run.state import Options
from harness.store.objects import Store
from tests.kit.chaos_run import STAGES, random_plan
from tests.kit.engine_stages import ENTRY
from tests.kit.processes import marked

KILLS = 15
"""With one run at a time; and as many with two runs on one store."""


class Chaos:
    """Grids that are run and killed; a new grid when one is through."""

    def __init__(self, folder: Path, seed: int, side_by_side: int) -> None:
        self.folder, self.draw, self.side_by_side = folder, random.Random(seed), side_by_side
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.runs: list[subprocess.Popen[bytes]] = []
        self.grids = [seed * 1000]
        self.kills: Counter[str] = Counter()

    def start(self) -> None:
        grid = self.grids[-1]
        arguments = [
            str(self.folder / f"store{grid}"),
            str(grid),
            str(self.folder / f"commits{grid}"),
        ]
        environment = {**os.environ, "TMPDIR": str(self.temporary)}
        command = [sys.executable, "-m", "tests.kit.chaos_run", *arguments]
        with (self.folder / "errors").open("ab") as errors:
            self.runs.append(subprocess.Popen(command, env=environment, stderr=errors))

    def look(self) -> None:
        """Take note of runs that ended, start others in their place, go on to a new grid when one
        is done.
        """
        codes = [run.poll() for run in self.runs]
        # 1: some stage was killed three times. The next run tries it again.
        assert set(codes) <= {None, 0, 1, -signal.SIGKILL}, self.errors()
        if 0 in codes:
            for run in self.runs:
                run.wait(30)
            self.runs = []
            self.grids.append(self.grids[-1] + 1)
        self.runs = [run for run in self.runs if run.poll() is None]
        while len(self.runs) < self.side_by_side:
            self.start()

    def errors(self) -> str:
        return (self.folder / "errors").read_text("utf-8")

    def kill(self) -> None:
        """A run, a fork server or a child, at a random time: mostly during the work, sometimes
        before there is any.
        """
        aim = self.draw.choice(("run", "server", "child", "child", "child"))
        if self.draw.random() < 0.2:
            time.sleep(self.draw.uniform(0.0, 0.3))
            aim = "run"
        pids = self.targets(aim)
        if pids:
            time.sleep(
                self.draw.uniform(0.0, 0.01 if aim == "child" else 0.08)
            )  # a child does not live long
            try:
                os.kill(self.draw.choice(pids), signal.SIGKILL)
            except ProcessLookupError:
                return  # it was faster
            self.kills[aim] += 1

    def targets(self, aim: str) -> list[int]:
        """Processes of that kind, once there are children at work."""
        until = time.monotonic() + 5
        while time.monotonic() < until and all(run.poll() is None for run in self.runs):
            found = marked(self.temporary)
            children = sorted(pid for pid, serves in found.items() if not serves)
            if children:
                servers = sorted(pid for pid, serves in found.items() if serves)
                return {
                    "run": [run.pid for run in self.runs],
                    "server": servers,
                    "child": children,
                }[aim]
            time.sleep(0.01)
        return []


def digests(store: Store) -> dict[str, str]:
    return {
        key: manifest.digest
        for key in list(store.keys())
        if (manifest := store.manifest(key)) is not None
    }


@pytest.mark.parametrize("side_by_side", [1, 2])
def test_kills_at_random_times_change_nothing(tmp_path: Path, side_by_side: int) -> None:
    chaos = Chaos(tmp_path, side_by_side, side_by_side)
    until = time.monotonic() + 60
    while chaos.kills.total() < KILLS and time.monotonic() < until:
        chaos.look()
        chaos.kill()
    assert chaos.kills.total() == KILLS
    for run in chaos.runs:
        run.kill()
        run.wait()
    chaos.runs, chaos.side_by_side = [], 1
    chaos.start()
    assert chaos.runs[0].wait(60) == 0, chaos.errors()

    assert marked(chaos.temporary) == {}
    assert list(chaos.temporary.iterdir()) == []
    assert "Traceback" not in chaos.errors()
    print(f"{dict(chaos.kills)} in {len(chaos.grids)} grids")
    for grid in chaos.grids:
        store = Store(tmp_path / f"store{grid}")
        undisturbed = Store(tmp_path / f"undisturbed{grid}")
        execute(
            random_plan(grid), undisturbed, Options(jobs=2, device="cpu", entry=ENTRY, preload=())
        )
        assert digests(store) == digests(undisturbed)
        commits = Counter((tmp_path / f"commits{grid}").read_text("utf-8").split())
        assert len(digests(store)) == STAGES
        assert set(commits.values()) == {1}
        assert store.lives() == {}
        assert list((store.root / "failures").iterdir()) == []
        assert not list((store.root / "tmp").glob("damaged.*"))
