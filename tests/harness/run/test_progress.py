from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from harness.outcomes import Outcome
from harness.run import observers
from harness.run.account import duration, failures, tally, time_left
from harness.run.progress import Bars, Picture, PlainLog, watcher
from harness.run.slots import Slot
from harness.run.state import Ended, Options, Run, Running, Summary
from harness.store.objects import Store
from tests.kit.engine_stages import Plan, make

SLOTS = [Slot("cpu.0", "cpu", 1), Slot("cpu.1", "cpu", 1)]


@pytest.fixture
def plan() -> Plan:
    plan = Plan()
    for number in range(4):
        plan.add(f"stage {number}", kind="victim" if number else "data")
    return plan


@pytest.fixture
def run(plan: Plan) -> Run:
    return Run(plan, cast("Store", None), Options(), SLOTS, wanted=4)


def end(run: Run, number: int, outcome: Outcome, message: str = "", log: Path | None = None) -> str:
    key = list(run.plan.stages)[number]
    run.ended[key] = Ended(outcome, message, 3.14, log)
    return key


def summary(run: Run, interrupted: int | None = None) -> Summary:
    return Summary(run.plan.stages, run.ended, 75.0, run.wanted - len(run.ended), interrupted)


def at_work(run: Run, number: int, progress: Mapping[str, object] | None = None) -> None:
    key = list(run.plan.stages)[number]
    run.running[key] = Running(
        run.plan.stages[key], SLOTS[number % 2], time.monotonic() - 65, progress
    )


def test_plain_lines(run: Run) -> None:
    stream = io.StringIO()
    log = PlainLog(stream)
    log.bench_run_start(run)
    log.bench_stage_end(run.plan.stages[end(run, 0, Outcome.DONE)], Outcome.DONE)
    log.bench_stage_end(
        run.plan.stages[end(run, 1, Outcome.FAILED, "no good\nat all")], Outcome.FAILED
    )
    log.bench_run_end(summary(run))
    assert stream.getvalue().splitlines() == [
        "4 stages to run on cpu.0, cpu.1",
        "1/4 done; data  stage 0  done 3.1 s",
        "1/4 done, 1 failed; victim  stage 1  failed 3.1 s: no good",
        "1/4 done, 1 failed in 1 min 15 s",
    ]


def test_a_plain_line_now_and_then(run: Run) -> None:
    stream = io.StringIO()
    log = PlainLog(stream, interval=0.05)
    at_work(run, 1, {"step": 3, "total": 10, "loss": 0.51234})
    at_work(run, 2, {"step": "odd"})
    log.bench_run_start(run)
    time.sleep(0.3)
    log.bench_run_end(summary(run, interrupted=2))
    lines = stream.getvalue().splitlines()
    assert lines[1].startswith(
        "0/4 done; victim  stage 1  3/10 loss 0.512 1 min 05 s; victim  stage 2  1 min 05 s"
    )
    assert lines[-1] == "interrupted: 0/4 done in 1 min 15 s; what is done is kept"


def test_a_cached_run_says_nothing(plan: Plan) -> None:
    stream = io.StringIO()
    for watching in (PlainLog(stream), Bars(stream)):
        idle = Run(plan, cast("Store", None), Options())
        watching.bench_run_start(idle)
        watching.bench_run_end(Summary(plan.stages, {}, 0.1))
    assert stream.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_on_a_terminal_and_lines_elsewhere(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(watcher(io.StringIO()), PlainLog)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(watcher(Terminal()), PlainLog)
    monkeypatch.setenv("TERM", "xterm")
    bars = watcher(Terminal())
    assert isinstance(bars, Bars)
    at_work(run, 1, {"step": 3, "total": 10, "loss": 0.5})
    at_work(run, 2)
    bars.bench_run_start(run)
    bars.bench_stage_end(run.plan.stages[end(run, 0, Outcome.DONE)], Outcome.DONE)
    bars.bench_stage_end(
        run.plan.stages[end(run, 3, Outcome.FAILED, "no [bold]good")], Outcome.FAILED
    )
    console = Console(file=io.StringIO(), width=120)
    console.print(Picture(run))
    bars.bench_run_end(summary(run))
    shown = cast("io.StringIO", console.file).getvalue()
    assert "1/4 done, 1 failed" in shown
    assert "cpu.1" in shown
    assert "3/10 loss 0.5 1 min 05 s" in shown
    text = cast("io.StringIO", bars.stream).getvalue()
    assert "✗ victim  stage 3  failed: no [bold]good" in text
    assert text.endswith("1/4 done, 1 failed in 1 min 15 s\n")


def test_the_time_left_comes_from_stages_of_the_same_kind(run: Run) -> None:
    assert time_left(run) is None
    end(run, 0, Outcome.DONE)  # 3.14 s, the only kind known so far
    assert time_left(run) == pytest.approx(3 * 3.14 / 2)
    key = end(run, 1, Outcome.DONE)
    run.ended[key] = replace(run.ended[key], seconds=100.0)
    assert time_left(run) == pytest.approx(2 * 100 / 2)
    at_work(run, 2)  # for 65 s
    assert time_left(run) == pytest.approx((35 + 100) / 2, abs=1)


def test_the_time_left_takes_into_account_what_is_kept(run: Run) -> None:
    keys = list(run.plan.stages)
    key = end(run, 1, Outcome.DONE)
    run.ended[key] = replace(run.ended[key], seconds=200.0)
    end(run, 0, Outcome.DONE)
    assert time_left(run) == pytest.approx((200 + 200) / 2)
    run.kept = {keys[2]: 50.0, keys[3]: 500.0}  # the last is about to end
    assert time_left(run) == pytest.approx(150 / 2)
    at_work(run, 2)  # for 65 s, and has not said yet what it goes on from
    assert time_left(run) == pytest.approx((150 - 65) / 2, abs=1)
    at_work(run, 2, {"step": 1, "total": 2, "earlier": 100.0})
    assert time_left(run) == pytest.approx((100 - 65) / 2, abs=1)
    at_work(run, 2, {"step": 1, "total": 2})  # it started over
    assert time_left(run) == pytest.approx((200 - 65) / 2, abs=1)


def test_the_tally_names_every_kind_of_end(run: Run) -> None:
    for number, outcome in enumerate(
        (Outcome.CACHED, Outcome.TIMED_OUT, Outcome.BLOCKED, Outcome.INCOMPATIBLE)
    ):
        end(run, number, outcome)
    assert tally(run) == "1/4 done, 1 timed out, 1 blocked, 1 incompatible"


def test_failures_are_grouped_by_reason_with_logs_and_a_command(run: Run) -> None:
    first = end(run, 0, Outcome.FAILED, "no good\nand more", Path("/store/failures/0/log.txt"))
    second = end(run, 1, Outcome.FAILED, "no good")
    end(run, 2, Outcome.TIMED_OUT, "no result after 5 s")
    blocked = end(run, 3, Outcome.BLOCKED, "needs stage 0")
    cells = {first: ["signs/cnn/badnets/ft/0.0"], second: ["signs/cnn/sig[delta=20]/ft/0.0"]}
    assert failures(summary(run), "bench run grid.toml", {**cells, blocked: cells[first]}) == (
        "failed: no good\n"
        "  data  stage 0\n"
        "    log: /store/failures/0/log.txt\n"
        "  victim  stage 1\n"
        "timed out: no result after 5 s\n"
        "  victim  stage 2\n"
        "blocked by these: 1 more stage\n"
        "To try just these again:\n"
        "  bench run grid.toml -k 'signs/cnn/badnets/ft/0.0 or signs/cnn/sig[delta=20]/ft/0.0'"
    )
    many = {first: [f"cell {number}" for number in range(20)]}
    assert failures(summary(run), "bench run grid.toml", many).endswith("\n  bench run grid.toml")


@pytest.mark.parametrize("width", [30, 50, 80, 140])
def test_a_picture_fits_any_terminal_and_names_the_cell(plan: Plan, run: Run, width: int) -> None:
    key = plan.add("cifar10 · resnet18 · badnets · nad · class-distance, seed 0.1", kind="defend")
    run.running[key] = Running(run.plan.stages[key], SLOTS[0], time.monotonic() - 65)
    at_work(run, 1, {"step": 3, "total": 10, "loss": 0.5})
    console = Console(file=io.StringIO(), width=width)
    console.print(Picture(run))
    lines = cast("io.StringIO", console.file).getvalue().splitlines()
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)
    assert "0/4 done" in lines[0]
    if width >= 50:
        assert "defend  " in lines[1]
        assert ", seed 0.1" in lines[1]
        assert "1 min 05 s" in lines[1]
        assert "victim  stage 1" in lines[2]
        state = "3/10 loss 0.5 1 min 05 s" if width >= 70 else "3/10 1 min 05 s"
        assert state in lines[2]
    assert ("cifar10 · resnet18 · badnets · nad" in lines[1]) == (width == 140)


def test_sentences_of_failures_are_broken_between_words_and_paths_are_not(run: Run) -> None:
    log = Path("/a/store/of/somebody/failures/0123456789abcdef/log.txt")
    first = end(run, 0, Outcome.FAILED, "no good-for-nothing plugin does that " * 3, log)
    text = failures(summary(run), "bench run grid.toml", {first: ["a/b"] * 9}, width=30)
    sentences = [line for line in text.splitlines() if "log: " not in line and " -k " not in line]
    assert all(len(line) <= 30 for line in sentences)
    assert f"    log: {log}\n" in text
    words = "failed: no good-for-nothing plugin does that no good-for-nothing plugin"
    assert words in " ".join(text.split())
    assert "bench run grid.toml -k a/b" in text


def test_no_failures(run: Run) -> None:
    end(run, 0, Outcome.INCOMPATIBLE, "makes no sense")
    assert failures(summary(run)) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (3.14, "3.1 s"),
        (59.96, "1 min 00 s"),
        (245, "4 min 05 s"),
        (7620, "2 h 07 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_every_outcome_has_a_look_of_its_own() -> None:
    assert len({outcome.symbol for outcome in Outcome}) == len(Outcome)
    assert all(len(outcome.symbol) == 1 and outcome.description for outcome in Outcome)
    assert {outcome for outcome in Outcome if outcome.is_failure} == {
        Outcome.FAILED,
        Outcome.TIMED_OUT,
        Outcome.BLOCKED,
    }


def test_observers_of_other_distributions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hook = (
        "from harness import hookimpl\n"
        "@hookimpl\n"
        "def bench_run_end(summary): seen.append(summary)\n"
        "seen = []\n"
    )
    (tmp_path / "good_observer.py").write_text(hook)
    (tmp_path / "bad_observer.py").write_text("raise SystemExit('no')")
    (tmp_path / "odd_observer.py").write_text(
        hook.replace("bench_run_end(summary)", "bench_run_end(sumary)")
    )
    information = tmp_path / "watchers-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: watchers\nVersion: 1\n")
    lines = [f"{name} = {name}_observer" for name in ("good", "bad", "odd", "none")]
    (information / "entry_points.txt").write_text("[bench.observers]\n" + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    (good,) = observers.outside()
    watching = observers.Observers([good])
    watching.stage_end(make("any"), Outcome.DONE)
    watching.run_end(cast("Summary", "over"))
    assert good.seen == ["over"]  # type: ignore[attr-defined]
    for name in ("bad", "odd", "none"):
        assert f"observer {name} ({name}_observer) is left out" in caplog.text
