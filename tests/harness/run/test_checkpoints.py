"""The host's side of checkpoints, with stages that write them by hand."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.outcomes import Outcome
from harness.run import checkpoints, children
from harness.run.children import Children
from harness.run.host import Attempt, Host, Stopped
from harness.run.slots import Slot
from harness.run.state import Ended, Options
from harness.stages.stage import Stage
from harness.store.objects import Store
from harness.store.scratch import Scratch
from tests.kit.engine_stages import ENTRY, make

SLOT = Slot("cpu.0", "cpu", 1, {})

WRITE = """
began = time.monotonic()

def keep(number, opened=(), seconds=None, **more):
    place = scratch / "checkpoint" / f"{number}.tmp"
    place.mkdir(parents=True)
    about = {"environment": {}, "opened": list(opened), "place": f"step {number} of 9",
             "cpu_seconds": 1.5, "attempt_seconds": seconds}
    if seconds is None:
        about["attempt_seconds"] = time.monotonic() - began
    (place / "about.json").write_text(json.dumps(about))
    (place / "state.json").write_text(str(number))
    for name, text in more.items():
        (place / name).write_text(text)
    place.rename(scratch / "checkpoint" / str(number))

def record(status, message=""):
    told = {"status": status, "type": status, "message": message}
    (scratch / "record.partial").write_text(json.dumps(told))
    (scratch / "record.partial").replace(scratch / "record.json")
    os._exit(0)

def paused():
    while not (scratch / "pause").exists():
        time.sleep(0.01)

resumed = scratch / "resume" / "state.json"
before = int(resumed.read_text()) if resumed.exists() else 0
"""
END = '(scratch / "out" / "result.txt").write_text(f"went on from {before}")'
DIE = "os.kill(os.getpid(), 9); time.sleep(5)"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def host(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(children, "PAUSE_PATIENCE", 3.0)
    base = Scratch()
    workers = Children(base.base, entry=ENTRY, preload=())
    yield Host(store, workers, base, Options(timeout=20))
    workers.stop()
    base.close()


def stage(code: str, name: str = "stage") -> Stage:
    return make(name, kind="do", code=f"{WRITE}\n{code}")


def run(host: Host, stage: Stage) -> Attempt:
    return host.run(stage, SLOT, lambda progress: None)


def result(store: Store, stage: Stage) -> str:
    return store.read(stage.key, "result.txt").decode()


def test_the_next_attempt_goes_on(host: Host, store: Store) -> None:
    dying = stage(f"if before < 2:\n    keep(before + 1)\n    {DIE}\n{END}")
    ended = run(host, dying)
    assert isinstance(ended, Ended)
    assert ended.outcome is Outcome.DONE
    assert result(store, dying) == "went on from 2"
    manifest = store.manifest(dying.key)
    assert manifest is not None
    assert manifest.record["continued"] == 2
    assert manifest.record["cpu_seconds"] >= 1.5
    assert manifest.record["seconds"] == ended.seconds > 0
    assert store.checkpoints.held() == []


def kept_seconds(store: Store, stage: Stage) -> float:
    manifest = store.checkpoints.manifest(stage.key)
    assert manifest is not None
    return float(manifest.record["seconds"])


def test_seconds_of_lost_work_are_not_counted(
    host: Host, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor those until there is a fork server."""
    start = host.children._start

    def late() -> Any:
        time.sleep(1.5)
        return start()

    run_child = host.children.run
    parts: list[dict[str, Any]] = []

    def noted(*told: Any, **more: Any) -> dict[str, Any]:
        record = run_child(*told, **more)
        parts.append(dict(record))
        return record

    monkeypatch.setattr(host.children, "_start", late)
    monkeypatch.setattr(host.children, "run", noted)
    lost = "time.sleep(0.2)\n    keep(1)\n    time.sleep(1.5)\n    raise ValueError"
    failing = stage(f"if not before:\n    {lost}\n{END}")
    assert run(host, failing).outcome is Outcome.FAILED  # type: ignore[union-attr]
    kept = kept_seconds(store, failing)
    assert 0.2 <= kept < 1.5
    assert run(host, failing).outcome is Outcome.DONE  # type: ignore[union-attr]
    manifest = store.manifest(failing.key)
    assert manifest is not None
    assert manifest.record["continued"] == 1
    assert manifest.record["seconds"] == kept + parts[-1]["seconds"]
    assert manifest.record["cpu_seconds"] == 1.5 + parts[-1]["cpu_seconds"]


@pytest.mark.parametrize("told", [0.0, -5.0, 1e9])
def test_a_stage_is_believed_when_a_checkpoint_was_written_within_what_was_seen(
    told: float, host: Host, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "TICK", 0.1)
    began = time.monotonic()
    failing = stage(f"time.sleep(0.6)\nkeep(1, seconds={told})\nraise ValueError")
    assert run(host, failing).outcome is Outcome.FAILED  # type: ignore[union-attr]
    assert 0.3 < kept_seconds(store, failing) < time.monotonic() - began


def test_what_came_back_is_counted_where_the_newest_is_damaged(
    host: Host, store: Store, tmp_path: Path
) -> None:
    failing = f"keep(before + 1)\nif before < 2:\n    raise ValueError('no good')\n{END}"
    one = stage(failing)
    run(host, one)
    folder = store.root / "checkpoints" / one.key
    shutil.copytree(folder / "1", tmp_path / "first")
    run(host, one)
    shutil.copytree(tmp_path / "first", folder / "1")
    (folder / "2" / "state.json").write_text("7")
    run(host, one)
    manifest = store.checkpoints.manifest(one.key)
    assert manifest is not None
    assert manifest.record["continued"] == 1
    assert manifest.record["place"] == "step 2 of 9"


def test_the_next_run_goes_on_and_one_with_nothing_to_keep_does_not(
    host: Host, store: Store
) -> None:
    failing = f"keep(before + 1)\nif before < 1:\n    raise ValueError('no good')\n{END}"
    first = run(host, stage(failing))
    assert isinstance(first, Ended)
    assert first.outcome is Outcome.FAILED
    assert store.checkpoints.held() == [stage(failing).key]
    never = Host(store, host.children, host.scratch, replace(host.options, checkpoint=0.0))
    assert run(never, stage(failing)).outcome is Outcome.FAILED  # type: ignore[union-attr]
    assert run(host, stage(failing)).outcome is Outcome.DONE  # type: ignore[union-attr]
    assert result(store, stage(failing)) == "went on from 1"


@pytest.mark.parametrize("what", ["sources", "inputs"])
def test_what_others_wrote_is_not_used(
    what: str, host: Host, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = stage(END)
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "state.json").write_text("7")
    (folder / "about.json").write_text("{}")
    store.checkpoints.keep(
        one.key,
        {path.name: path for path in folder.iterdir()},
        spec={},
        code={"a.module": "r2"} if what == "sources" else {},
        parents={"role0": ("ab" * 32, "x")} if what == "inputs" else {},
        record={"place": "", "seconds": 1.0, "cpu_seconds": 1.0, "continued": 0},
    )
    with caplog.at_level(logging.WARNING):
        assert run(host, one).outcome is Outcome.DONE  # type: ignore[union-attr]
    assert result(store, one) == "went on from 0"
    assert "do (stage) starts over: what was kept cannot be used: it was" in caplog.text
    manifest = store.manifest(one.key)
    assert manifest is not None
    assert "continued" not in manifest.record


def test_what_does_not_fit_starts_over_once(
    host: Host, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    unfit = stage(f"if before:\n    record('unfit', 'other threads')\nkeep(1)\n{DIE}")
    with caplog.at_level(logging.WARNING):
        ended = run(host, unfit)
    assert isinstance(ended, Ended)
    assert "killed by signal 9 (SIGKILL) (3 times)" in ended.message
    assert caplog.text.count("starts over: what was kept cannot be used: other threads") == 1


REFUSED = {
    "a look behind the wall": ("keep(1, opened=[payload['store'] + '/x'])", "opened"),
    "a link": (
        "keep(1)\nlink = scratch / 'checkpoint' / '1' / 'x'\nlink.symlink_to('/etc/passwd')",
        "only plain files",
    ),
    "no state": ("keep(1)\n(scratch / 'checkpoint' / '1' / 'state.json').unlink()", "it lacks"),
    "too large": ("keep(1, large='x' * 5000)", "more than"),
    "an odd place": ("keep(1, **{'about.json': '[1]'})", "a JSON object is expected"),
    "odd paths": ("keep(1, opened=['x'])", "absolute paths are expected"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_believed_is_not_kept(
    what: str,
    host: Host,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(checkpoints, "LIMIT", 4000)
    monkeypatch.setattr(checkpoints.claims, "RECORD_LIMIT", 500)
    code, reason = REFUSED[what]
    bad = make("bad", kind="do", code=f"{WRITE}\n{code}\nraise ValueError", store=str(store.root))
    with caplog.at_level(logging.WARNING):
        run(host, bad)
    assert "no checkpoint of do (bad): " in caplog.text
    assert reason in caplog.text
    assert store.checkpoints.held() == []


def test_nothing_is_kept_of_a_stage_that_was_caught(host: Host, store: Store) -> None:
    other = "str(scratch.parent / 'another-stage' / 'x')"
    caught = stage(f"keep(1)\n(scratch / 'trespasses.txt').write_text({other})\n{END}")
    ended = run(host, caught)
    assert isinstance(ended, Ended)
    assert "the scratch of another stage" in ended.message
    assert store.checkpoints.held() == []


def test_a_pause_that_nobody_asked_for_is_a_failure(host: Host, store: Store) -> None:
    ended = run(host, stage("keep(1)\nrecord('paused')"))
    assert isinstance(ended, Ended)
    assert ended.outcome is Outcome.FAILED
    assert ended.message == "it says that it paused, which nobody asked for"


PAUSING = f"(scratch / 'checkpoint').mkdir()\npaused()\nkeep(before + 1)\nrecord('paused')\n{END}"


def test_a_time_limit_becomes_a_pause_where_asked(host: Host, store: Store) -> None:
    late = Host(store, host.children, host.scratch, Options(timeout=0.5, pause=True))
    ended = run(late, stage(PAUSING))
    assert isinstance(ended, Ended)
    assert ended.outcome is Outcome.PAUSED
    assert "step 1 of 9" in ended.message
    assert store.failure(stage(PAUSING).key) is None
    assert store.checkpoints.held() == [stage(PAUSING).key]


@pytest.mark.parametrize("code", ["time.sleep(60)", "keep(1)\ntime.sleep(60)"])
def test_what_does_not_pause_is_killed(code: str, host: Host, store: Store) -> None:
    late = Host(store, host.children, host.scratch, Options(timeout=0.3, pause=True))
    began = time.monotonic()
    ended = run(late, stage(code))
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.message) == (Outcome.TIMED_OUT, "no result after 0.3 s")
    # What keeps nothing is not waited for.
    assert ("keep" in code) == (time.monotonic() - began > 3.0)


def test_a_run_that_is_interrupted_lets_stages_pause_and_kills_the_rest(
    host: Host, store: Store
) -> None:
    attempts: dict[str, Attempt] = {}
    stages = {"a": stage(PAUSING, "a"), "b": stage("time.sleep(60)", "b")}

    def work(name: str) -> None:
        attempts[name] = run(host, stages[name])

    threads = [threading.Thread(target=work, args=(name,)) for name in stages]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 20
    while len(list(host.scratch.base.glob("*/checkpoint"))) < 1 or len(store.lives()) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(0.3)
    host.children.pause()
    for thread in threads:
        thread.join(10)
    assert attempts == {"a": Stopped(), "b": Stopped()}
    assert store.checkpoints.held() == [stages["a"].key]
    assert store.failed() == set()
