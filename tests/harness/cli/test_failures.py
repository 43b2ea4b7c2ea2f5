"""Failures as they are told: with the place in the plugin's own code, each cause once, and not any
more once their sources or their grid are gone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.store import disk
from harness.store.objects import Store
from tests.kit import tiny
from tests.kit.command import Bench, Call
from tests.kit.fake_plugins import install, registering
from tests.kit.lineages import key_of

PLUGIN = """
from harness import Defense, Incompatible

class Clumsy(Defense):
    "Divides by nothing."
    needs = {"victim"}
    by: int = 0
    style: str = "divide"

    def defend(self, access):
        if self.style == "refuse":
            raise Incompatible("not today")
        access.victim().apply(self.work)

    def work(self, module):
        1 / self.by
"""

GRID = f"""
{tiny.GRID}
[[defense]]
name = "clumsy"
sweep.style = ["divide", "divides"]
[[defense]]
name = "clumsy"
as = "refusing"
style = "refuse"
"""


@dataclass(frozen=True)
class Place:
    """A folder with a grid that was run, one of whose defenses fails, and the plugin behind it."""

    folder: Path
    call: Callable[..., subprocess.CompletedProcess[str]]
    ran: subprocess.CompletedProcess[str]

    @property
    def plugin(self) -> Path:
        return self.folder / "site" / "clumsy.py"


@pytest.fixture(scope="module")
def place(
    bench: Bench, environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Place:
    folder = tmp_path_factory.mktemp("failures")
    register = registering('register.defense("clumsy", "clumsy:Clumsy")')
    install(folder / "site", "clumsy", {"clumsy_plug": register, "clumsy": PLUGIN})
    (folder / "grid.toml").write_text(GRID)
    path = f"{folder / 'site'}:{environment['PYTHONPATH']}"
    env = {"PYTHONPATH": path, "BENCH_CACHE": str(folder / "cache")}

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        return bench(*words, cwd=folder, env=env)

    return Place(folder, call, call("run", "grid.toml"))


def test_a_failure_says_type_file_and_line_of_the_plugins_own_frame(place: Place) -> None:
    line = 1 + PLUGIN.splitlines().index("        1 / self.by")
    why = f"failed: ZeroDivisionError: division by zero, at {place.plugin}:{line}\n"
    assert place.ran.returncode == 1
    # Once while it runs, once in the account at the end; of the second stage `as above`.
    assert place.ran.stderr.count(why.removeprefix("failed: ")) == 2
    again = r"defend  badnets · clumsy\[style=\w+\]  failed [\d.]+ s: as above\n"
    assert len(re.findall(again, place.ran.stderr)) == 1
    status = place.call("status")
    assert status.returncode == 1
    assert f"\nfailed: 2\n  {why}    defend  badnets · clumsy[" in status.stdout
    assert status.stdout.count("ZeroDivisionError") == 1
    assert status.stdout.count("      log: ") == 2
    report = " ".join(place.call("report", "grid.toml").stdout.split())
    assert f"ZeroDivisionError: division by zero, at {place.plugin}:{line}" in report


def test_failures_of_changed_sources_are_out_of_date_and_forgotten_on_request(
    place: Place,
) -> None:
    before = place.plugin.read_text()
    place.plugin.write_text(before.replace("by: int = 0", "by: int = 1"))
    try:
        status = place.call("status")
        assert status.returncode == 0
        assert "\nnothing has failed\n" in status.stdout
        assert "out of date: 2 failures; `bench status --forget`" in status.stdout
        assert "  clumsy has changed (2 stages)\n" in status.stdout
    finally:
        place.plugin.write_text(before)
    assert place.call("status").returncode == 1
    shutil.copytree(place.folder / ".bench", place.folder / "copy")
    renamed = place.plugin.with_name("gone.py")
    place.plugin.rename(renamed)
    try:
        status = place.call("status", "--forget", "--store", "copy")
    finally:
        renamed.rename(place.plugin)
    # With the one that said it makes no sense.
    assert status.stdout.startswith("forgot 3 failures of sources and grids that are gone\n")
    assert status.returncode == 0
    assert Store(place.folder / "copy").failed() == set()
    assert place.call("status", "--forget").stdout.startswith("forgot 0 failures")
    assert place.call("status").returncode == 1


def test_failures_of_a_grid_that_is_gone_or_has_lost_the_cells(place: Place) -> None:
    shutil.copytree(place.folder / ".bench", place.folder / "lost")
    grid = place.folder / "grid.toml"
    grid.write_text(GRID.replace('sweep.style = ["divide", "divides"]', 'style = "divide"'))
    try:
        status = place.call("status", "grid.toml", "--forget", "--store", "lost")
        assert status.stdout.startswith("forgot 1 failure of")
        assert status.returncode == 1
        assert len(Store(place.folder / "lost").failed()) == 2
    finally:
        grid.write_text(GRID)
    moved = grid.rename(grid.with_name("moved.toml"))
    try:
        status = place.call("status", "--store", "lost")
        assert status.returncode == 0
        assert f"  {grid} is gone (1 stage)\n" in status.stdout
    finally:
        moved.rename(grid)


@pytest.fixture
def store(tmp_path: Path, call: Call) -> Store:
    return Store(tmp_path / "mine")


def noted(store: Store, name: str, **more: object) -> str:
    note = {"status": "error", "message": "no", "host": disk.host(), "grid": "", "code": {}}
    store.fail(key_of(name), {**note, **more})
    return key_of(name)


def test_what_nobody_can_tell_counts_as_it_is(call: Call, store: Store) -> None:
    """Notes of other versions, and of grids on other machines, whose files are not here."""
    noted(store, "old", code=None, grid=None)
    noted(store, "strange", code=[1], grid=["x"])
    noted(store, "elsewhere", host="elsewhere-1", grid="/nowhere/grid.toml")
    code, said, _ = call("status", "--store", "mine", "--forget")
    assert code == 1
    assert said.startswith("forgot 0 failures")
    assert "failed: 3\n  failed: no\n" in said
    noted(store, "here", grid="/nowhere/grid.toml")
    assert call("status", "--store", "mine", "--forget")[1].startswith("forgot 1 failure ")


def test_what_a_run_is_trying_again_is_not_forgotten(call: Call, store: Store) -> None:
    key = noted(store, "here", grid="/nowhere/grid.toml")
    with Store(store.root).lock(key):
        assert call("status", "--store", "mine", "--forget")[1].startswith("forgot 0 failures")
    assert store.failed() == {key}
