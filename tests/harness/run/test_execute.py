from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import BenchError, StoreError
from harness.hookspecs import hookimpl
from harness.outcomes import Outcome
from harness.run import slots as slots_module
from harness.run.execute import execute
from harness.run.ready import ReadyQueue
from harness.run.slots import slots
from harness.run.state import Options, Run, Summary
from harness.stages.stage import Stage
from harness.store.objects import DiskFull, Store
from tests.kit.engine_stages import ENTRY, Plan, gone, make, wait_for

OPTIONS = Options(jobs=2, device="cpu", entry=ENTRY, preload=(), timeout=30)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return Store(tmp_path / "store")


class Watch:
    """Notes what happened, in order."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, Outcome]] = []
        self.summary: Summary | None = None

    @hookimpl
    def bench_stage_end(self, stage: Stage, outcome: Outcome) -> None:
        self.ends.append((stage.title, outcome))

    @hookimpl
    def bench_run_end(self, summary: Summary) -> None:
        self.summary = summary


def outcomes(summary: Summary) -> dict[str, str]:
    return {summary.stages[key].title: ended.outcome.value for key, ended in summary.ended.items()}


def test_a_diamond_runs_in_order_and_once(store: Store, tmp_path: Path) -> None:
    plan, watch = Plan(), Watch()
    top = plan.add("top")
    left, right = plan.add("left", top), plan.add("right", top)
    plan.add("bottom", left, right)
    summary = execute(plan, store, OPTIONS, [watch])
    assert [name for name, _ in watch.ends][0::3] == ["top", "bottom"]
    assert set(outcomes(summary).values()) == {"done"}
    assert summary.exit_code == 0
    assert watch.summary == summary
    assert list((tmp_path / "temporary").iterdir()) == []
    again = execute(plan, store, OPTIONS)
    assert set(outcomes(again).values()) == {"cached"}


def test_nothing_to_run_starts_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, watch = Plan(), Watch()
    plan.outcome[plan.add("kept")] = Outcome.CACHED
    monkeypatch.setattr("harness.run.execute.start", None)
    assert execute(plan, store, OPTIONS, [watch]).exit_code == 0
    assert watch.ends == []
    assert watch.summary is not None


def test_what_most_others_wait_for_goes_first(store: Store) -> None:
    plan, watch = Plan(), Watch()
    for number in range(3):
        plan.add(f"single {number}")
    hub = plan.add("hub")
    for number in range(3):
        plan.add(f"leaf {number}", hub)
    execute(plan, store, Options(jobs=1, device="cpu", entry=ENTRY, preload=()), [watch])
    assert watch.ends[0] == ("hub", Outcome.DONE)


def test_a_failure_blocks_its_dependants_and_nobody_else(store: Store) -> None:
    plan = Plan()
    bad = plan.add("bad", kind="fail", message="no good\nat all")
    good = plan.add("good")
    child = plan.add("child", bad, good)
    plan.add("grandchild", child)
    plan.add("sibling", good)
    summary = execute(plan, store, OPTIONS)
    assert outcomes(summary) == {
        "bad": "failed",
        "good": "done",
        "child": "blocked",
        "grandchild": "blocked",
        "sibling": "done",
    }
    assert summary.exit_code == 1
    assert summary.ended[child].message == "needs fail (bad), which failed: no good\nat all"
    assert set(summary.failures) == {
        bad,
        child,
        *(key for key in plan.stages if plan.stages[key].title == "grandchild"),
    }


def test_incompatible_is_no_failure_and_neither_are_its_dependants(store: Store) -> None:
    plan = Plan()
    child = plan.add("child", plan.add("odd", kind="refuse"))
    summary = execute(plan, store, OPTIONS)
    assert outcomes(summary) == {"odd": "incompatible", "child": "incompatible"}
    assert summary.ended[child].message == "makes no sense here"
    assert summary.exit_code == 0


def test_only_what_is_to_run_runs(store: Store) -> None:
    plan = Plan()
    for outcome in (Outcome.INCOMPATIBLE, Outcome.BLOCKED, Outcome.CACHED):
        plan.outcome[plan.add(outcome.value)] = outcome
    plan.add("this")
    assert outcomes(execute(plan, store, OPTIONS)) == {"this": "done"}


@pytest.mark.parametrize("harm", ["damage", "remove"])
def test_a_cached_input_that_is_damaged_or_gone_is_made_again(
    store: Store, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    plan = Plan()
    root = plan.add("root")
    middle = plan.add("middle", root)
    execute(plan, store, OPTIONS)
    plan.outcome.update({root: Outcome.CACHED, middle: Outcome.CACHED})
    plan.add("new", middle)
    for key in (root, middle):
        path = store.root / "objects" / key[:2] / key / "result.txt"
        path.write_bytes(path.read_bytes()[::-1]) if harm == "damage" else store.set_aside(
            key, "a test"
        )
    with caplog.at_level(logging.ERROR):
        assert outcomes(execute(plan, store, OPTIONS)) == {
            "root": "done",
            "middle": "done",
            "new": "done",
        }
    assert store.read(middle, "result.txt").startswith(b"middle")


def test_an_input_that_is_no_part_of_the_plan(store: Store) -> None:
    plan = Plan()
    plan.add("lost", "f" * 64)
    summary = execute(plan, store, OPTIONS)
    (ended,) = summary.ended.values()
    assert ended.outcome is Outcome.FAILED
    assert ended.message.endswith(
        "not in the store, or not whole, and it is no part of this plan: plan again"
    )


def test_a_plan_need_not_have_looked_at_everything(store: Store) -> None:
    plan = Plan()
    root = plan.add("root")
    middle = plan.add("middle", root)
    execute(plan, store, OPTIONS)
    for key in (root, middle):
        store.set_aside(key, "a test")
    plan.outcome[middle] = Outcome.CACHED
    del plan.outcome[root]
    plan.add("new", middle)
    hidden = Plan({key: plan.stages[key] for key in plan.stages if key != root}, plan.outcome)
    summary = execute(hidden, store, OPTIONS)
    assert outcomes(summary) == {"middle": "failed", "new": "blocked"}
    assert f"its input {root} cannot be used" in summary.ended[middle].message
    assert outcomes(execute(plan, store, OPTIONS)) == {
        "root": "done",
        "middle": "done",
        "new": "done",
    }


def test_dependants_of_what_came_out_differently_are_made_again(store: Store) -> None:
    plan = Plan()
    root = plan.add("root", kind="unsteady")
    child = plan.add("child", root)
    execute(plan, store, OPTIONS)
    before = store.read(child, "result.txt")
    store.set_aside(root, "a test")
    plan.outcome[child] = Outcome.CACHED
    assert outcomes(execute(plan, store, OPTIONS)) == {"root": "done", "child": "done"}
    assert store.read(child, "result.txt") != before
    assert store.has(child)


def test_what_another_run_is_making_is_asked_for_later(store: Store) -> None:
    plan, watch = Plan(), Watch()
    busy = plan.add("busy")
    plan.add("free")
    lock = Store(store.root).lock(busy)
    assert lock.__enter__()
    timer = threading.Timer(0.7, lambda: lock.__exit__(None, None, None))
    timer.start()
    summary = execute(plan, store, Options(jobs=1, device="cpu", entry=ENTRY, preload=()), [watch])
    timer.join()
    assert [name for name, _ in watch.ends] == ["free", "busy"]
    assert summary.exit_code == 0


def test_two_runs_share_the_work(store: Store) -> None:
    plan = Plan()
    for number in range(8):
        plan.add(f"stage {number}", sleep=0.05)
    summaries: list[Summary] = []
    threads = [
        threading.Thread(target=lambda: summaries.append(execute(plan, Store(store.root), OPTIONS)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(summary.counts[Outcome.DONE] for summary in summaries) == 8
    assert all(summary.exit_code == 0 for summary in summaries)


def test_a_store_that_cannot_be_written_stops_the_run(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise DiskFull("the disk is full")

    monkeypatch.setattr(store, "commit", full)
    monkeypatch.setattr(store, "fail", full)
    plan, watch = Plan(), Watch()
    plan.add("large")
    with pytest.raises(StoreError, match="the disk is full"):
        execute(plan, store, OPTIONS, [watch])
    assert watch.summary is not None
    assert watch.summary.left == 1


def test_an_unknown_engine(store: Store) -> None:
    plan = Plan()
    plan.add("any")
    with pytest.raises(BenchError, match="Did you mean: local"):
        execute(plan, store, Options(engine="lokal"))


# --- interruption ---------------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
from harness.run.execute import execute
from harness.run.state import Options
from harness.store.objects import Store
from tests.kit.engine_stages import ENTRY, Plan
base = Path(sys.argv[1])
plan = Plan()
plan.add("quick")
plan.add("endless", kind="hang", tell=str(base / "pids"))
execute(plan, Store(base / "store"), Options(jobs=2, device="cpu", entry=ENTRY, preload=()))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)]
)
def test_an_interruption_kills_cleans_up_and_keeps_what_is_done(
    tmp_path: Path, store: Store, number: signal.Signals, code: int
) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment, stderr=subprocess.PIPE
    )
    with process:
        pids = wait_for(tmp_path / "pids")
        quick = make("quick").key
        until = time.monotonic() + 10
        while not store.has(quick):
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(5) == code
        assert gone(pids)
    assert list((tmp_path / "temporary").iterdir()) == []
    assert store.lives() == {}
    assert [store.failure(key) for key in (quick, make("endless").key)] == [None, None]


# --- observers that must not matter ---------------------------------------------------------------


class Raises:
    @hookimpl
    def bench_run_start(self, run: Run) -> None:
        raise RuntimeError("from the start")

    @hookimpl
    def bench_stage_end(self, stage: Stage, outcome: Outcome) -> None:
        raise SystemExit(9)


def test_an_observer_that_raises_is_reported_and_the_run_goes_on(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    plan, watch = Plan(), Watch()
    plan.add("one")
    assert execute(plan, store, OPTIONS, [Raises(), watch]).exit_code == 0
    assert watch.ends == [("one", Outcome.DONE)]
    assert "RuntimeError: from the start" in caplog.text
    assert "SystemExit: 9" in caplog.text


# --- the queue, without processes -----------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    for number in range(draw(st.integers(1, 14))):
        parents = draw(st.sets(st.sampled_from(sorted(stages)), max_size=3)) if stages else set()
        stage = make(f"s{number}", *sorted(parents))
        stages[stage.key] = stage
    return stages


@settings(deadline=None, max_examples=150)
@given(graphs(), st.data())
def test_the_queue_hands_out_everything_once_and_in_order(
    stages: dict[str, Stage], data: st.DataObject
) -> None:
    wanted = data.draw(st.sets(st.sampled_from(sorted(stages))))
    queue = ReadyQueue(stages, wanted)
    taken: list[str] = []
    done: set[str] = set()
    dropped: set[str] = set()
    while queue:
        while (data.draw(st.booleans()) or not taken) and (key := queue.take()) is not None:
            assert all(item.key in done or item.key not in wanted for item in stages[key].inputs)
            taken.append(key)
        key = taken.pop(data.draw(st.integers(0, len(taken) - 1)))
        fate = data.draw(st.sampled_from(["finish", "finish", "drop", "put back"]))
        if fate == "finish":
            queue.finish(key)
            done.add(key)
        elif fate == "drop":
            dropped.update([key, *queue.drop(key)])
        else:
            queue.put_back(key)
    assert done | dropped == wanted
    assert not done & dropped
    for key in wanted:
        lost = any(item.key in dropped for item in stages[key].inputs)
        assert not lost or key in dropped


@settings(deadline=None, max_examples=100)
@given(graphs(), st.data())
def test_reviving_makes_what_is_lacking_first(
    stages: dict[str, Stage], data: st.DataObject
) -> None:
    target = data.draw(st.sampled_from(sorted(stages)))
    there = data.draw(st.sets(st.sampled_from(sorted(stages))))
    queue = ReadyQueue(stages, ())
    added = queue.want(target, there.__contains__)
    assert len(added) == len(set(added)) == len(queue)
    made: set[str] = set()
    while queue:
        key = queue.take()
        assert key is not None
        assert all(item.key in made or item.key in there for item in stages[key].inputs)
        queue.finish(key)
        made.add(key)
    assert made == set(added)
    assert target in made


# --- slots ----------------------------------------------------------------------------------------


def test_slots_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "cores", lambda: 8)
    monkeypatch.setattr(slots_module, "gpus", list)
    assert len(slots("auto")) == 8
    assert len(slots("cpu", threads=3)) == 2
    assert len(slots("cpu", threads=16)) == 1
    assert len(slots("cpu", jobs=5)) == 5
    (slot,) = slots("cpu", jobs=1, threads=4)
    assert (slot.device, slot.threads) == ("cpu", 4)
    assert slot.env == {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4"}


@pytest.mark.parametrize(
    ("device", "jobs", "names"),
    [
        ("auto", None, ["cuda:0", "cuda:1"]),
        ("cuda", 2, ["cuda:0.0", "cuda:1.0", "cuda:0.1", "cuda:1.1"]),
        ("cuda:1", None, ["cuda:1"]),
        ("cpu", 1, ["cpu.0"]),
    ],
)
def test_slots_on_gpus(
    monkeypatch: pytest.MonkeyPatch, device: str, jobs: int | None, names: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-abc,-1,6")
    found = slots(device, jobs)
    assert [slot.name for slot in found] == names
    if device != "cpu":
        assert {slot.device for slot in found} == {"cuda"}
        assert found[-1].env["CUDA_VISIBLE_DEVICES"] == "GPU-abc"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gpu",), "Known: auto, cpu, cuda"),
        (("cuda",), "no GPU is visible"),
        (("cpu", 0), "--jobs 0"),
        (("cpu", None, 0), "--threads 0"),
        (("cpu", 10**20), "--jobs 10+: at most 4,096"),
        (("cpu", None, 10**11), "--threads 10+: at most 4,096"),
    ],
)
def test_slots_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[Any, ...], message: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(BenchError, match=message):
        slots(*arguments)


def test_a_gpu_number_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(BenchError, match="2 GPUs are visible"):
        slots("cuda:2")


def test_gpus_are_listed_by_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        "echo 'GPU 0: NVIDIA H200 (UUID: GPU-aaaa-1)'\n"
        "echo 'GPU 1: NVIDIA H200 (UUID: GPU-bbbb-2)'\n"
        "echo '  MIG 3g.71gb Device 0: (UUID: MIG-cccc-3)'\n"
        "echo '  MIG 3g.71gb Device 1: (UUID: MIG-dddd-4)'\n"
    )
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert slots_module.gpus() == ["GPU-aaaa-1", "MIG-cccc-3", "MIG-dddd-4"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert slots_module.gpus() == []


# --- cost -----------------------------------------------------------------------------------------


def test_a_stage_costs_less_than_a_tenth_of_a_second(store: Store) -> None:
    plan = Plan()
    for number in range(20):
        plan.add(f"stage {number}")
    options = Options(jobs=1, device="cpu", entry=ENTRY, preload=())
    ends: list[float] = []

    class Clock:
        @hookimpl
        def bench_stage_end(self, stage: Stage, outcome: Outcome) -> None:
            ends.append(time.monotonic())

    execute(plan, store, options, [Clock()])
    # The best of them: what else runs on the machine is not this test's business.
    assert min(later - earlier for earlier, later in itertools.pairwise(ends)) < 0.1
