from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.errors import StoreError
from harness.outcomes import Outcome
from harness.run.children import Children
from harness.run.host import Attempt, Busy, Host, Missing
from harness.run.slots import Slot
from harness.run.state import Ended, Options
from harness.stages.stage import Stage
from harness.store import disk
from harness.store.objects import DiskFull, Store
from harness.store.scratch import Scratch
from tests.kit.engine_stages import ENTRY, make

SLOT = Slot("cpu.0", "cpu", 1, {"CUDA_VISIBLE_DEVICES": ""})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def host(tmp_path: Path, store: Store, temporary: Path) -> Iterator[Host]:
    base = Scratch()
    children = Children(base.base, entry=ENTRY, preload=())
    yield Host(store, children, base, Options(data_roots=(tmp_path / "data",), timeout=20))
    children.stop()
    assert [
        path.name for path in base.base.iterdir() if path.is_dir()
    ] == []  # no stage's folder is left
    base.close()
    assert list(temporary.iterdir()) == []


def run(host: Host, stage: Stage) -> Attempt:
    return host.run(stage, SLOT, lambda progress: None)


def test_a_stage_is_done_committed_and_then_cached(host: Host, store: Store) -> None:
    first = make("first")
    ended = run(host, first)
    assert isinstance(ended, Ended)
    assert ended.outcome is Outcome.DONE
    second = make("second", first.key)
    assert run(host, second) == Ended(Outcome.DONE, seconds=run_seconds(store, second))
    manifest = store.manifest(second.key)
    assert manifest is not None
    assert list(manifest.files) == ["result.txt"]
    assert manifest.spec == second.spec
    parent = store.manifest(first.key)
    assert parent is not None
    assert manifest.parents == {"role0": {"key": first.key, "digest": parent.digest}}
    record = manifest.record
    assert (record["device"], record["threads"], record["host"]) == ("cpu", 1, disk.host())
    assert record["peak_memory"] > 0
    assert not {"status", "opened"} & set(record)
    assert run(host, second) == Ended(Outcome.CACHED)
    assert store.lives() == {}


def run_seconds(store: Store, stage: Stage) -> float:
    manifest = store.manifest(stage.key)
    assert manifest is not None
    return float(manifest.record["seconds"])


def test_a_stage_gets_copies_of_the_files_it_named_only(
    host: Host, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    for name in ("granted.txt", "secret.txt"):
        (tmp_path / "files" / name).write_text(name)
    parent = make("parent")
    store.commit(parent.key, tmp_path / "files", spec={}, code={}, parents={}, record={})
    stage = make("surroundings", parent.key, kind="surroundings")
    narrowed = Stage(
        stage.kind,
        stage.key,
        stage.title,
        stage.spec,
        {},
        (type(stage.inputs[0])("given", parent.key, ("gr*",)),),
        stage.payload,
    )
    assert isinstance(run(host, narrowed), Ended)
    seen = store.read_json(stage.key, "seen.json")
    given = [name for name in seen["files"] if name.startswith("inputs/")]
    assert given == ["inputs/given", "inputs/given/granted.txt"]
    assert str(store.root) not in json.dumps(seen["environment"])
    assert store.log(stage.key) is not None


@pytest.mark.parametrize(
    ("kind", "outcome", "message"),
    [
        ("fail", Outcome.FAILED, "no good"),
        ("refuse", Outcome.INCOMPATIBLE, "makes no sense here"),
        ("exit", Outcome.FAILED, "it ended with exit code 3 and left no record"),
        ("nothing", Outcome.FAILED, "the stage ended well but left no file in its out folder"),
        ("no-room", Outcome.FAILED, "disk full: [Errno 28] No space left on device"),
    ],
)
def test_a_failure_is_a_note_with_its_log(
    host: Host, store: Store, kind: str, outcome: Outcome, message: str
) -> None:
    stage = make("bad", kind=kind)
    ended = run(host, stage)
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.message) == (outcome, message)
    assert not store.has(stage.key)
    note = store.failure(stage.key)
    assert note is not None
    assert (note["outcome"], note["message"], note["title"]) == (outcome.value, message, "bad")
    assert (None if ended.log is None else ended.log.read_text()) == {
        "fail": "about to fail\nTraceback: here\n",
        "no-room": "Traceback: here\n",
    }.get(kind)


def test_links_are_not_stored(host: Host, store: Store) -> None:
    ended = run(host, make("link", kind="link"))
    assert isinstance(ended, Ended)
    assert ended.outcome is Outcome.FAILED
    assert "only plain files and folders can be stored" in ended.message


FORGED = 'Path("record.json").write_text(json.dumps({"status": "ok"})); os._exit(0)'
RESULT = 'Path("out/result.txt").write_text("good")\n'


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ('os.mkfifo("record.json"); os._exit(0)', "record.json is no plain file"),
        ('os.symlink("/dev/zero", "record.json"); os._exit(0)', "record.json is a link"),
        ('os.mkdir("record.json"); os._exit(0)', "record.json is no plain file"),
        ('Path("record.json").write_text("[" * 10**5); os._exit(0)', "nested too deeply"),
        ('Path("record.json").write_text("9" * 10**4); os._exit(0)', "record is not as it should"),
        ('file = open("record.json", "wb"); file.truncate(1 << 40); os._exit(0)', "is larger than"),
        (
            'Path("record.json").write_text(json.dumps({"status": "ok", "opened": [7]}));'
            "os._exit(0)",
            "opened holds 7",
        ),
        (FORGED, "left no file"),
        ('os.rmdir("out"); os.symlink("/etc", "out")', "out: is a link"),
        ('os.rmdir("out"); os.symlink(os.getcwd() + "/inputs", "out")', "out: is a link"),
        ('os.rmdir("out"); os.mkfifo("out")', "out: no such folder"),
        (RESULT + 'os.mkfifo("out/a.json")', "a.json: only plain files"),
        (RESULT + 'os.symlink("/dev/zero", "out/a.json")', "a.json: only plain files"),
        (RESULT + 'Path("out/rows.json").write_text("[]")', "rows.json is not as it should be"),
        (RESULT + 'Path("out/a.json").write_text("[" * 10**5)', "nested too deeply"),
        (RESULT + 'Path("out/a\x1b[2J").write_text("")', "control characters"),
        (RESULT + 'Path(os.fsdecode(b"out/a\\xff")).write_text("")', "halves of characters"),
        (RESULT + 'file = open("out/a.json", "wb"); file.truncate(1 << 40)', "larger than"),
        (
            RESULT + 'os.chdir("out")\nfor _ in range(1200): os.mkdir("a"); os.chdir("a")\n'
            "os.chdir(scratch)",
            "more than 16 levels",
        ),
        (
            RESULT + 'os.chdir("out")\n'
            'for _ in range(30): os.mkdir("a" * 200); os.chdir("a" * 200)\n'
            "os.chdir(scratch)",
            "at most 1000",
        ),
        (RESULT + 'for n in range(10001): open(f"out/{n}", "w").close()', "more than 10,000 files"),
        ('raise ValueError("\\ud800 \x1b[2J")', "? ?[2J"),
        ('os.remove("log.txt"); os.mkfifo("log.txt"); raise ValueError("so")', "so"),
    ],
)
def test_whatever_a_child_leaves_is_a_failure_with_a_reason(
    host: Host, store: Store, code: str, reason: str
) -> None:
    stage = make("hostile", kind="do", code=code)
    began = time.monotonic()
    ended = run(host, stage)
    assert isinstance(ended, Ended)
    assert ended.outcome is Outcome.FAILED
    assert reason in ended.message
    assert time.monotonic() - began < 20
    note = store.failure(stage.key)
    assert note is not None
    note["message"].encode()
    assert not store.has(stage.key)


def test_progress_of_any_kind_does_no_harm(host: Host) -> None:
    seen: list[Mapping[str, Any] | None] = []
    for number, code in enumerate(
        (
            'os.mkfifo("progress.json"); time.sleep(1.5)',
            'os.symlink("/dev/zero", "progress.json"); time.sleep(1.5)',
            'Path("progress.json").write_text("[" * 60000); time.sleep(1.5)',
            """Path("progress.json").write_text('{"step": "1", "total": []}'); time.sleep(1.5)""",
        )
    ):
        stage = make(f"odd {number}", kind="do", code=RESULT + code)
        ended = host.run(stage, SLOT, seen.append)
        assert isinstance(ended, Ended)
        assert ended.outcome is Outcome.DONE, ended.message
    assert len(seen) > 4
    assert set(seen) == {None}


def test_a_child_has_no_say_in_what_the_host_measures(host: Host, store: Store) -> None:
    claims = {"status": "ok", "seconds": 0.0, "peak_memory": 1, "cpu_seconds": 0, "log": "/etc"}
    claims |= {"device": "cuda:7", "environment": {"device": "cuda:7", "threads": 64}}
    code = f"Path('record.json').write_text(json.dumps({claims!r})); os._exit(0)"
    stage = make("boast", kind="do", code=RESULT + "time.sleep(0.1)\n" + code)
    assert isinstance(run(host, stage), Ended)
    manifest = store.manifest(stage.key)
    assert manifest is not None
    assert manifest.record["seconds"] >= 0.1
    assert manifest.record["peak_memory"] > 1 << 20
    assert manifest.record["environment"] == {"device": "cpu", "threads": 1}
    assert (manifest.record["device"], manifest.record["threads"]) == ("cpu", 1)
    assert "log" not in manifest.record


def test_a_failure_is_forgotten_when_the_stage_succeeds(
    host: Host, store: Store, tmp_path: Path
) -> None:
    stage = make("moody", kind="kill", count=str(tmp_path / "count"), times=1, signal=11)
    assert isinstance(run(host, stage), Ended)
    assert store.failure(stage.key) is not None
    assert run(host, stage) == Ended(Outcome.DONE, seconds=run_seconds(store, stage))
    assert store.failure(stage.key) is None


@pytest.mark.parametrize(("times", "outcome"), [(2, Outcome.DONE), (3, Outcome.FAILED)])
def test_a_kill_from_outside_is_tried_again_twice(
    host: Host, tmp_path: Path, times: int, outcome: Outcome
) -> None:
    ended = run(host, make("killed", kind="kill", count=str(tmp_path / "count"), times=times))
    assert isinstance(ended, Ended)
    assert ended.outcome is outcome
    assert len((tmp_path / "count").read_text()) == 3
    if outcome is Outcome.FAILED:
        assert ended.message == "killed by signal 9 (SIGKILL) (3 times)"


def test_a_crash_of_its_own_is_not(host: Host, tmp_path: Path) -> None:
    ended = run(host, make("crash", kind="kill", count=str(tmp_path / "count"), signal=11))
    assert isinstance(ended, Ended)
    assert ended.message == "killed by signal 11 (SIGSEGV)"
    assert len((tmp_path / "count").read_text()) == 1


@pytest.mark.parametrize(
    ("place", "guarded", "named", "fails"),
    [
        ("store/objects/x", True, False, True),
        ("store", True, False, True),
        ("data/cifar10.npz", True, False, True),
        ("data/cifar10.npz", True, True, False),
        ("store/objects/x", True, True, True),
        ("data/cifar10.npz", False, False, False),
        ("database/cifar10.npz", True, False, False),
        ("link/objects", True, False, True),
    ],
)
def test_a_look_behind_the_wall_fails_the_stage(
    host: Host, store: Store, tmp_path: Path, place: str, guarded: bool, named: bool, fails: bool
) -> None:
    (tmp_path / "link").symlink_to(store.root)
    path = str(tmp_path / place)
    payload: dict[str, Any] = {"params": [{"file": path}]} if named else {}
    # Without the slash, lest what is opened count as named.
    ended = run(host, make("curious", guarded=guarded, opened=[path[1:]], **payload))
    assert isinstance(ended, Ended)
    assert ended.outcome is Outcome.DONE or f"opened {path}" in ended.message
    assert (ended.outcome is Outcome.FAILED) == fails


def test_busy_while_somebody_else_holds_the_lock(host: Host, store: Store) -> None:
    stage = make("wanted")
    with Store(store.root).lock(stage.key):
        assert run(host, stage) == Busy()
    assert isinstance(run(host, stage), Ended)


def test_missing_and_damaged_inputs_are_asked_for(
    host: Host, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    first = make("first")
    second = make("second", first.key)
    assert run(host, second) == Missing((first.key,), "not in the store, or not whole")
    run(host, first)
    path = store.root / "objects" / first.key[:2] / first.key / "result.txt"
    path.write_bytes(path.read_bytes()[::-1])
    with caplog.at_level(logging.ERROR):
        missing = run(host, second)
    assert isinstance(missing, Missing)
    assert missing.keys == (first.key,)
    assert "SHA-256" in missing.reason
    assert not store.has(first.key)
    run(host, first)
    assert isinstance(run(host, second), Ended)


def test_a_time_out(host: Host, store: Store, tmp_path: Path) -> None:
    hasty = Host(store, host.children, host.scratch, Options(timeout=0.4))
    ended = hasty.run(
        make("slow", kind="hang", tell=str(tmp_path / "pids")), SLOT, lambda progress: None
    )
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.message) == (Outcome.TIMED_OUT, "no result after 0.4 s")


def test_a_full_store_fails_the_stage_and_stops_the_run_if_not_even_that_can_be_noted(
    host: Host, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise DiskFull("the disk is full")

    monkeypatch.setattr(store, "commit", full)
    stage = make("large")
    ended = run(host, stage)
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.message) == (Outcome.FAILED, "disk full: the disk is full")
    assert store.failure(stage.key) is not None
    monkeypatch.setattr(store, "fail", full)
    with pytest.raises(StoreError):
        run(host, stage)


def test_what_runs_can_be_seen_from_another_terminal(host: Host, store: Store) -> None:
    stage, seen = make("steady", kind="steps"), []

    def look(progress: Mapping[str, Any] | None) -> None:
        seen.append((progress, Store(store.root).lives()[stage.key]))

    host.run(stage, SLOT, look)
    assert seen[0][0] is None
    assert (seen[0][1]["title"], seen[0][1]["slot"], seen[0][1]["pid"]) == (
        "steady",
        "cpu.0",
        os.getpid(),
    )
    assert seen[-1][1]["progress"] == seen[-1][0] == {"step": 3, "total": 10, "loss": 0.5}
    assert store.lives() == {}
