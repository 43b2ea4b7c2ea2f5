"""Kill -9 at random moments, many of them while a checkpoint is being written: every stage ends as
if undisturbed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.store.objects import Store
from tests.kit.chain_run import TIMES, chains
from tests.kit.engine_stages import chained
from tests.kit.processes import marked


class Chains:
    """Runs that are killed; a new seed when one is through."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.draw = random.Random(0)
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.seed = 0
        self.kills = 0
        self.found: list[int] = []
        """The steps at which checkpoints were found after kills."""
        self.run = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.kit.chain_run", str(self.store), str(self.seed)]
        environment = {**os.environ, "TMPDIR": str(self.temporary)}
        with (self.folder / "errors").open("ab") as errors:
            return subprocess.Popen(command, env=environment, stderr=errors)

    @property
    def store(self) -> Path:
        return self.folder / f"store{self.seed}"

    def kill(self) -> None:
        """Kill the run, or a child, once there are children at work."""
        while self.run.poll() is None:
            pids = [pid for pid, serves in marked(self.temporary).items() if not serves]
            if pids:
                break
            time.sleep(0.01)
        time.sleep(self.draw.uniform(0.0, 0.25))
        if self.run.poll() is not None:
            return
        whole = self.draw.random() < 0.7
        try:
            os.kill(self.run.pid if whole else self.draw.choice(pids), signal.SIGKILL)
        except ProcessLookupError:
            return
        self.kills += 1
        if whole:
            self.run.wait()
            self.note()

    def note(self) -> None:
        store = Store(self.store)
        for key in store.checkpoints.held():
            manifest = store.checkpoints.manifest(key)
            if manifest is not None:
                self.found.append(int(manifest.record["place"].split()[1]))

    def go_on(self) -> None:
        """Start the next run where one has ended or was killed."""
        code = self.run.poll()
        if code is None:
            return
        assert code in (0, 1, -signal.SIGKILL), (self.folder / "errors").read_text()
        if code == 0:
            self.check()
            self.seed += 1
        self.run = self.start()

    def check(self) -> None:
        """See that everything is there and right, and nothing else."""
        store = Store(self.store)
        for stage in chains(self.seed).stages.values():
            assert store.read(stage.key, "result.txt").decode() == chained(stage.title, TIMES)
        assert store.checkpoints.held() == []
        assert not list((store.root / "tmp").glob("damaged.*"))


@pytest.mark.parametrize("kills", [15, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_cost_time_and_nothing_else(kills: int, tmp_path: Path) -> None:
    chains = Chains(tmp_path)
    while chains.kills < kills:
        chains.kill()
        chains.go_on()
    while chains.run.wait(100) != 0:
        chains.go_on()
    chains.check()
    errors = (tmp_path / "errors").read_text()
    assert "Traceback" not in errors
    assert "damaged" not in errors
    assert len(set(chains.found)) > 1, "hardly anything was kept"
    print(f"{chains.kills} kills over {chains.seed + 1} seeds, kept at {sorted(chains.found)}")
