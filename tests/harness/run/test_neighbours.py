"""Stages that do harm to those beside them: they fail, and nobody else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.outcomes import Outcome
from harness.run.company import Company
from harness.run.execute import execute
from harness.run.state import Options, Summary
from harness.store.objects import Store
from tests.kit.engine_stages import ENTRY, Plan

OPTIONS: Mapping[str, Any] = {"device": "cpu", "entry": ENTRY, "preload": (), "timeout": 60}

FIND = """
def find(pattern):
    "Wait for something in the folder of another stage."
    until = time.monotonic() + 10
    while time.monotonic() < until:
        for path in scratch.parent.glob("*/" + pattern):
            if scratch not in path.parents:
                return path
        time.sleep(0.01)
    raise RuntimeError("nobody is there")
"""
SEEN = "\nfrom harness.run.watch import watching\nwith watching([], scratch):\n    "
UNSEEN = "\nif True:\n    "
OWN = '\nPath("out/result.txt").write_text("mine")\n'


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def run(plan: Plan, store: Store, jobs: int = 2) -> Summary:
    return execute(plan, store, Options(jobs=jobs, **OPTIONS))


def digests(store: Store, *keys: str) -> list[str]:
    found = []
    for key in keys:
        manifest = store.manifest(key)
        assert manifest is not None
        found.append(manifest.digest)
    return found


def expected(tmp_path: Path, plan: Plan, culprit: str, *keys: str) -> list[str]:
    """Return the digests that stages have which nobody disturbs."""
    alone = Plan()
    for key, stage in plan.stages.items():
        if key != culprit:
            alone.stages[key] = stage
            alone.outcome[key] = Outcome.TO_RUN
    undisturbed = Store(tmp_path / "undisturbed")
    run(alone, undisturbed)
    return digests(undisturbed, *keys)


HARMS = {
    "input": 'find("inputs/role0/result.txt").write_text("poison")',
    "result": 'find("out/result.txt").write_text("poison")',
    "more input": 'find("inputs/role0").joinpath("more.txt").write_text("poison")',
    "removed": 'os.remove(find("inputs/role0/result.txt"))',
    "moved": 'Path("out/x").write_text("poison"); '
    'os.rename("out/x", find("inputs/role0/result.txt"))',
    "linked": 'target = find("inputs/role0/result.txt").with_name("l"); os.symlink("x", target)',
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_ran_beside_a_stage_that_was_caught_is_made_again(
    store: Store, tmp_path: Path, harm: str
) -> None:
    plan = Plan()
    first = plan.add("first")
    run(plan, store)
    plan.outcome[first] = Outcome.CACHED
    # It writes at once, and again at its end.
    steady = 'Path("out/result.txt").write_text(Path("inputs/role0/result.txt").read_text())\n'
    honest = plan.add("honest", first, kind="do", code=f"time.sleep(0.3)\n{steady}time.sleep(0.7)")
    later = plan.add("later", honest)
    culprit = plan.add("culprit", kind="do", code=FIND + SEEN + HARMS[harm] + OWN)
    summary = run(plan, store)
    assert summary.ended[culprit].outcome is Outcome.FAILED
    assert "lies in the scratch of another stage" in summary.ended[culprit].message
    assert summary.ended[honest].outcome is Outcome.DONE
    assert digests(store, honest, later) == expected(tmp_path, plan, culprit, honest, later)
    assert not store.has(culprit)


def test_inputs_that_nobody_is_seen_to_alter_are_noticed_all_the_same(
    store: Store, tmp_path: Path
) -> None:
    plan = Plan()
    first = plan.add("first")
    run(plan, store)
    plan.outcome[first] = Outcome.CACHED
    honest = plan.add("honest", first, sleep=0.8)
    culprit = plan.add("culprit", kind="do", code=FIND + UNSEEN + HARMS["input"] + OWN)
    summary = run(plan, store)
    assert {ended.outcome for ended in summary.ended.values()} == {Outcome.DONE}
    assert digests(store, honest) == expected(tmp_path, plan, culprit, honest)


def test_a_stage_that_alters_its_own_inputs_fails(store: Store) -> None:
    plan = Plan()
    first = plan.add("first")
    code = 'Path("inputs/role0/result.txt").write_text("better")' + OWN
    vain = plan.add("vain", first, kind="do", code=code)
    summary = run(plan, store)
    assert summary.ended[vain].outcome is Outcome.FAILED
    assert summary.ended[vain].message == (
        "its inputs were altered while it worked: role0/result.txt (5 times)"
    )


def test_what_was_stored_before_its_neighbour_was_caught_is_made_again_too(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = Plan()
    first = plan.add("first")
    run(plan, store)
    plan.outcome[first] = Outcome.CACHED
    # The harm is done to a result just before it is taken.
    quick = 'Path("out/result.txt").write_text("right"); time.sleep(0.5)'
    honest = plan.add("honest", first, kind="do", code=quick)
    later = plan.add("later", honest)
    wait = (
        f"\nobject = Path({str(store.root)!r}) / 'objects' / {later[:2]!r} / {later!r}\n"
        "until = time.monotonic() + 10\n"
        "while not object.exists() and time.monotonic() < until: time.sleep(0.01)\n"
    )
    code = FIND + SEEN + HARMS["result"] + wait + OWN
    culprit = plan.add("culprit", kind="do", code=code)
    summary = run(plan, store)
    assert summary.ended[culprit].outcome is Outcome.FAILED
    assert summary.ended[later].outcome is Outcome.DONE
    assert digests(store, honest, later) == expected(tmp_path, plan, culprit, honest, later)
    assert store.read(honest, "result.txt") == b"right"
    assert "ran beside a stage that was caught" in caplog.text


@pytest.mark.parametrize("number", [9, 19])
@pytest.mark.parametrize("seen", [True, False])
def test_killing_or_stopping_the_fork_server_fails_nobody_else(
    store: Store, number: int, seen: bool
) -> None:
    plan = Plan()
    harm = f"os.kill(os.getppid(), {number}); time.sleep(20)"
    code = "time.sleep(0.3)" + (SEEN if seen else UNSEEN) + harm + OWN
    innocent = [plan.add(f"innocent {name}", sleep=1.0) for name in "ab"]
    culprit = plan.add("culprit", kind="do", code=code)
    innocent += [plan.add(f"innocent {name}", sleep=0.2) for name in "cdef"]
    summary = run(plan, store, jobs=3)
    assert [summary.ended[key].outcome for key in innocent] == [Outcome.DONE] * 6
    assert summary.ended[culprit].outcome is Outcome.FAILED
    if seen:
        assert f"sent signal {number} to process" in summary.ended[culprit].message
    else:
        assert summary.ended[culprit].message == "its host process died (3 times)"


def test_killing_a_neighbour_fails_nobody_else(store: Store) -> None:
    plan = Plan()
    innocent = plan.add("innocent", sleep=1.0)
    later = plan.add("later", innocent)
    kill = """
def kill(times):
    while times:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                folder = (process / "cwd").readlink()
            except OSError:
                continue
            if folder.parent == scratch.parent and folder != scratch:
                os.kill(int(process.name), 9)
                times -= 1
        time.sleep(0.1)
"""
    culprit = plan.add("culprit", kind="do", code=kill + SEEN + "kill(3)\n" + OWN)
    summary = run(plan, store)
    assert summary.ended[culprit].outcome is Outcome.FAILED
    assert "sent signal 9 to process" in summary.ended[culprit].message
    assert summary.ended[innocent].outcome is Outcome.DONE
    assert summary.ended[later].outcome is Outcome.DONE
    assert summary.left == 0


def test_own_processes_may_be_signalled_and_others_asked_for(store: Store) -> None:
    plan = Plan()
    code = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
apart = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"],
                         start_new_session=True)
from harness.run.watch import watching
with watching([], scratch):
    child.terminate()
    os.killpg(apart.pid, 9)
    os.kill(os.getppid(), 0)
    child.wait()
    apart.wait()
"""
    busy = plan.add("busy", kind="do", code=code + OWN)
    assert run(plan, store).ended[busy].outcome is Outcome.DONE


def test_two_culprits_beside_each_other_come_to_an_end(store: Store) -> None:
    plan = Plan()
    code = FIND + SEEN + 'find("task.json").read_text()\n    time.sleep(0.5)' + OWN
    culprits = [plan.add(name, kind="do", code=code) for name in "ab"]
    failing = plan.add("failing", kind="fail")
    lost = plan.add("lost", failing)
    summary = run(plan, store, jobs=3)
    assert [summary.ended[key].outcome for key in (*culprits, failing)] == [Outcome.FAILED] * 3
    assert summary.ended[lost].outcome is Outcome.BLOCKED


def test_who_was_beside_whom() -> None:
    company = Company()
    first = company.enter("first")
    gone = company.enter("gone")
    assert not company.leave(gone)
    second = company.enter("second")
    assert company.catch(first) == ("gone",)
    assert company.leave(second)
    assert not company.leave(first)
    third = company.enter("third")
    assert company.catch(third) == ()
