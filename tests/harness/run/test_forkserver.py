from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.run.children import PRELOAD, Children
from harness.run.records import judge
from tests.kit.engine_stages import ENTRY, gone, in_thread, task, wait_for

ENDED = {"code": 0, "signal": None, "seconds": 2.0, "cpu_seconds": 1.0, "peak_memory": 1}
"""What a fork server says of a child that came to its end."""


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    (tmp_path / "base").mkdir()
    children = Children(tmp_path / "base", entry=ENTRY, preload=())
    yield children
    children.stop()


def test_a_task_runs_and_its_record_comes_back(children: Children, tmp_path: Path) -> None:
    record = children.run(*task(tmp_path / "a", "derive"))
    assert record["status"] == "ok"
    assert record["signal"] is None
    assert record["seconds"] > 0
    assert record["cpu_seconds"] >= 0
    assert record["peak_memory"] > 1 << 20
    assert (tmp_path / "a" / "out" / "result.txt").read_text() == "derive"


def test_a_child_sees_its_task_and_nothing_else(
    children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA", "/secret")
    monkeypatch.setenv("MY_TOKEN", "secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/tmp/mps")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    described, folder = task(tmp_path / "a", "surroundings")
    described["env"] = {"CUDA_VISIBLE_DEVICES": "7"}
    assert children.run(described, folder)["status"] == "ok"
    seen = json.loads((folder / "out" / "seen.json").read_text())
    assert seen["cwd"] == str(folder)
    assert seen["arguments"] == [ENTRY]
    assert not [
        name for name in seen["environment"] if name.startswith("BENCH_") or name == "MY_TOKEN"
    ]
    assert seen["environment"]["CUDA_VISIBLE_DEVICES"] == "7"
    assert seen["environment"]["LC_ALL"] == "C.UTF-8"
    assert seen["environment"]["CUDA_MPS_PIPE_DIRECTORY"] == "/tmp/mps"
    assert seen["environment"]["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache" / "compiled")
    assert seen["environment"]["TMPDIR"] == seen["random"][1] == str(folder / "tmp")
    assert seen["stdin"] == ""
    assert seen["group"][0] == seen["group"][1]
    assert not {"torch", "pluggy", "pytest", "harness.store.objects", "harness.run.execute"} & set(
        seen["modules"]
    )
    # The standard three, the lifeline, and the listing itself: no socket, nobody else's pipe.
    assert len([name for name in seen["descriptors"] if name.startswith(("socket:", "pipe:"))]) == 1
    assert (folder / "log.txt").read_text() == "to the log\n"


def test_hashes_are_the_same_in_every_run(children: Children, tmp_path: Path) -> None:
    values = set()
    for number in range(2):
        other = Children(children.base, entry=ENTRY, preload=())
        described, folder = task(tmp_path / str(number), "surroundings")
        other.run(described, folder)
        other.stop()
        values.add(json.loads((folder / "out" / "seen.json").read_text())["random"][0])
    assert len(values) == 1


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("fail", "error", "no good"),
        ("refuse", "incompatible", "makes no sense here"),
        ("exit", "error", "it ended with exit code 3 and left no record"),
        ("unheard-of", "error", "'unheard-of'"),
    ],
)
def test_what_goes_wrong_is_a_record(
    children: Children, tmp_path: Path, kind: str, status: str, message: str
) -> None:
    record = children.run(*task(tmp_path / "a", kind))
    assert (record["status"], record["message"]) == (status, message)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGKILL, "died"), (signal.SIGTERM, "died"), (signal.SIGSEGV, "error")],
)
def test_signals(children: Children, tmp_path: Path, number: signal.Signals, status: str) -> None:
    record = children.run(
        *task(tmp_path / "a", "kill", count=str(tmp_path / "count"), signal=number)
    )
    assert (record["status"], record["signal"]) == (status, number)
    assert record["message"] == f"killed by signal {number:d} ({number.name})"
    assert (number == signal.SIGSEGV) == (
        "Segmentation fault" in (tmp_path / "a" / "log.txt").read_text()
    )


@pytest.mark.parametrize("text", ["{", "[]", '{"status": "splendid"}', "\xff"])
def test_a_record_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text, "latin-1")
    assert judge(ENDED, tmp_path, None)["type"] == "BadRecord"


def test_what_was_measured_stands_whatever_the_child_says(tmp_path: Path) -> None:
    claim = {"status": "ok", "images": 50, "seconds": 1e-6, "cpu_seconds": 0, "peak_memory": 0}
    claim |= {"images_per_second": 1e9, "signal": 9}
    (tmp_path / "record.json").write_text(json.dumps(claim))
    record = judge(ENDED, tmp_path, None)
    measured = {name: record[name] for name in ENDED if name != "code"}
    assert measured == {"seconds": 2.0, "signal": None, "cpu_seconds": 1.0, "peak_memory": 1}
    assert record["images_per_second"] == 25.0


def test_a_task_that_said_it_was_done_and_went_on_is_late(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text('{"status": "ok"}')
    assert judge({**ENDED, "signal": 9}, tmp_path, 5)["status"] == "timeout"
    # It was on its way out when its time was up.
    assert judge(ENDED, tmp_path, 5)["status"] == "ok"


@pytest.mark.parametrize("stuck", [False, True])
def test_a_late_task_dies_with_all_its_processes(
    children: Children, tmp_path: Path, stuck: bool
) -> None:
    arguments = task(tmp_path / "a", "hang", tell=str(tmp_path / "pids"), stuck=stuck)
    record = children.run(*arguments, 0.7)
    assert (record["status"], record["message"]) == ("timeout", "no result after 0.7 s")
    assert 0.65 <= record["seconds"] < 5
    assert gone(wait_for(tmp_path / "pids"))


def test_what_a_task_leaves_behind_is_killed(children: Children, tmp_path: Path) -> None:
    assert (
        children.run(*task(tmp_path / "a", "leave", tell=str(tmp_path / "pids")))["status"] == "ok"
    )
    assert gone(wait_for(tmp_path / "pids"))


@pytest.mark.parametrize("stuck", [False, True])
def test_a_killed_fork_server_takes_its_children_along_and_is_replaced(
    children: Children, tmp_path: Path, stuck: bool
) -> None:
    thread, records = in_thread(
        children, *task(tmp_path / "a", "hang", tell=str(tmp_path / "pids"), stuck=stuck)
    )
    pids = wait_for(tmp_path / "pids")
    assert children._server is not None
    os.kill(children._server.process.pid, signal.SIGKILL)
    thread.join(5)
    assert (records[0]["status"], records[0]["message"]) == ("died", "its host process died")
    assert gone(pids[:2])
    os.kill(
        pids[2], signal.SIGKILL
    )  # left for a session of its own, and the one who would have caught it is dead
    assert children.run(*task(tmp_path / "b", "derive"))["status"] == "ok"


def test_stop_kills_everything_and_says_so(children: Children, tmp_path: Path) -> None:
    thread, records = in_thread(
        children, *task(tmp_path / "a", "hang", tell=str(tmp_path / "pids"))
    )
    pids = wait_for(tmp_path / "pids")
    began = time.monotonic()
    children.stop()
    thread.join(5)
    assert time.monotonic() - began < 2
    assert records[0]["status"] == "died"
    assert gone(pids)
    assert children.run(*task(tmp_path / "b", "derive"))["type"] == "Stopped"


def test_the_kernel_ties_children_to_a_killed_fork_server_without_the_parents_help(
    tmp_path: Path,
) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from harness.run.children import Children\n"
        "from tests.kit.engine_stages import ENTRY, in_thread, task, wait_for\n"
        "base = Path(sys.argv[1])\n"
        "children = Children(base, entry=ENTRY, preload=())\n"
        "in_thread(children, *task(base / 'a', 'hang', tell=str(base / 'pids'), stuck=True))\n"
        "wait_for(base / 'pids')\n"
        "print(children._server.process.pid, flush=True)\n"
        "input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        server = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGSTOP)  # it cannot help
        os.kill(server, signal.SIGKILL)
        pids = wait_for(tmp_path / "pids")
        assert gone(pids[:2])
        os.kill(pids[2], signal.SIGKILL)
        process.kill()


def test_many_tasks_at_once(children: Children, tmp_path: Path) -> None:
    pairs = [
        in_thread(children, *task(tmp_path / str(number), "derive", sleep=0.01))
        for number in range(40)
    ]
    for thread, _ in pairs:
        thread.join(20)
    assert [records[0]["status"] for _, records in pairs] == ["ok"] * 40


def test_progress_is_told(children: Children, tmp_path: Path) -> None:
    told: list[dict[str, Any] | None] = []
    children.run(*task(tmp_path / "a", "steps", pause=1.2), None, told.append)
    assert {"step": 3, "total": 10, "loss": 0.5} in told


def test_a_module_that_cannot_be_preloaded_is_named_once_and_for_all(tmp_path: Path) -> None:
    children = Children(tmp_path, entry=ENTRY, preload=("no_such_module",))
    for name in "ab":
        record = children.run(*task(tmp_path / name, "derive"))
        assert record["status"] == "error"
        assert "no child can be started" in record["message"]
        assert "No module named 'no_such_module'" in record["message"]
    children.stop()


def test_stop_does_not_wait_for_a_slow_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_module.py").write_text("import time; time.sleep(60)")
    monkeypatch.syspath_prepend(tmp_path)
    children = Children(tmp_path, entry=ENTRY, preload=("slow_module",))
    thread, records = in_thread(children, *task(tmp_path / "a", "derive"))
    while not children._starting:
        time.sleep(0.01)
    began = time.monotonic()
    children.stop()
    thread.join(5)
    assert time.monotonic() - began < 2
    assert records[0]["type"] == "Stopped"


def test_a_scratch_folder_that_is_not_there(children: Children, tmp_path: Path) -> None:
    record = children.run({"kind": "derive", "payload": {}}, tmp_path / "nowhere")
    assert (record["status"], record["type"]) == ("error", "FileNotFoundError")


def test_children_find_torch_loaded_and_cost_little(tmp_path: Path) -> None:
    children = Children(tmp_path, entry=ENTRY, preload=PRELOAD)
    first, folder = task(tmp_path / "0", "surroundings")
    assert children.run(first, folder)["status"] == "ok"
    assert "torch._dynamo" in json.loads((folder / "out" / "seen.json").read_text())["modules"]
    records = [children.run(*task(tmp_path / str(number), "derive")) for number in range(1, 11)]
    children.stop()
    # Importing torch takes seconds; what else runs on the machine is not this test's business.
    assert min(record["seconds"] for record in records) < 0.3


def test_children_keep_the_memory_that_they_free(children: Children, tmp_path: Path) -> None:
    record = children.run(*task(tmp_path / "a", "reuse", megabytes=8, times=20))
    assert record["status"] == "ok"
    faults = json.loads((tmp_path / "a" / "out" / "faults.json").read_text())
    assert faults[0] >= 2048 / 2  # pages of the first buffer, each touched for the first time
    assert sum(faults[1:]) < 2048 / 2
