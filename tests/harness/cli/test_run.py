"""`bench run` as a user sees it, on a grid with every kind of defense."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from harness.store import disk
from harness.store.objects import Store
from tests.kit.command import Bench, Ran


def rows(bench: Bench, ran: Ran, store: Path | None = None) -> list[dict[str, str]]:
    result = bench("report", ran.grid, "--store", store or ran.store, "--format", "csv")
    assert result.returncode in (0, 1), result.stderr
    return list(csv.DictReader(io.StringIO(result.stdout)))


def value(table: list[dict[str, str]], **where: str) -> list[float]:
    where = {"status": "done", **where}
    return [
        float(row["value"])
        for row in table
        if all(row[name] == text for name, text in where.items())
    ]


def started(
    ran: Ran, store: Path, environment: Mapping[str, str], *options: str, output: int
) -> subprocess.Popen[str]:
    """Start `bench run` on the grid of `ran`, to be killed or waited for."""
    command = [sys.executable, "-m", "harness.cli", "run", str(ran.grid), "--store", str(store)]
    return subprocess.Popen(
        [*command, *options],
        env=dict(environment),
        cwd=store.parent,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_it_ends_well_and_prints_the_table(ran: Ran) -> None:
    assert ran.result.returncode == 0, ran.result.stderr
    assert "badnets" in ran.result.stdout
    assert "±" in ran.result.stdout


def test_the_backdoor_is_there_and_defenses_differ(bench: Bench, ran: Ran) -> None:
    table = rows(bench, ran)
    assert min(value(table, attack="badnets", defense="none", metric="asr")) > 80
    assert len({round(mean, 2) for mean in value(table, attack="badnets", metric="asr")}) > 1


def test_every_kind_of_defense_reports(bench: Bench, ran: Ran) -> None:
    table = rows(bench, ran)
    assert value(table, attack="badnets", defense="retrain", metric="dropped") == [135.0, 135.0]
    assert set(value(table, attack="badnets", defense="scan", metric="flagged")) <= {0.0, 1.0}
    assert len(value(table, attack="badnets", defense="widen", metric="acc")) == 2
    assert len(value(table, attack="badnets", defense="widen, then ft", metric="acc")) == 2
    scanned = [row for row in table if row["defense"] == "scan" and row["metric"] == "acc"]
    assert {row["status"] for row in scanned} == {"incompatible"}
    assert all("verdict" in row["reason"] for row in scanned)


def test_no_asr_without_a_trigger(bench: Bench, ran: Ran) -> None:
    none = [row for row in rows(bench, ran) if row["attack"] == "none" and row["metric"] == "asr"]
    assert none
    assert all(row["status"] == "incompatible" and "no trigger" in row["reason"] for row in none)


def test_a_victim_below_its_bounds_is_said_not_to_be_established(bench: Bench, ran: Ran) -> None:
    marks = {(row["attack"], "not established" in row["marks"]) for row in rows(bench, ran)}
    assert ("wanet", True) in marks
    assert ("wanet", False) not in marks
    assert ("badnets", True) not in marks


def test_training_controlled_exports_are_marked_static(bench: Bench, ran: Ran) -> None:
    marks = {(row["attack"], row["defense"]): row["marks"] for row in rows(bench, ran)}
    assert "static" in marks["wanet", "retrain"]
    assert "static" not in marks["badnets", "retrain"]
    assert "static" not in marks["wanet", "ft"]


def test_exported_cover_is_no_poison(ran: Ran) -> None:
    """WaNet touches three tenths of the training set; one tenth is poisoned."""
    shares = []
    for path in (ran.store / "objects").rglob("manifest.json"):
        spec = json.loads(path.read_text())["spec"]
        if spec["stage"] == "export" and spec["component"]["name"] == "wanet":
            shares.append(load_file(path.parent / "poisoned.safetensors")["poisoned"].mean())
    assert len(shares) == 2
    assert shares == pytest.approx([0.1, 0.1], abs=0.01)


def test_a_measured_metric_knows_the_reference_model(bench: Bench, ran: Ran) -> None:
    table = rows(bench, ran)
    assert value(table, attack="badnets", defense="none", metric="weight-norm", part="change") == [
        0.0,
        0.0,
    ]
    assert (
        min(value(table, attack="badnets", defense="ft", metric="weight-norm", part="change")) > 0
    )


def test_costs_tell_time_images_a_second_and_memory(bench: Bench, ran: Ran) -> None:
    told = bench("report", ran.grid, "--store", ran.store, "--costs", "--format", "csv")
    stages = list(csv.DictReader(io.StringIO(told.stdout)))
    for one in (stage for stage in stages if stage["kind"] in ("victim", "defend", "evaluate")):
        assert float(one["seconds"]) > 0
        assert int(one["memory"]) > 10**8
        assert float(one["rate"] or 0) == pytest.approx(
            int(one["images"]) / float(one["seconds"])
        ), one["title"]


def test_a_finished_grid_runs_nothing_again(bench: Bench, ran: Ran) -> None:
    before = {path: path.stat().st_mtime_ns for path in (ran.store / "objects").rglob("*")}
    began = time.monotonic()
    again = bench("run", ran.grid, "--store", ran.store)
    seconds = time.monotonic() - began
    assert again.returncode == 0, again.stderr
    assert "0 to run" in again.stderr + again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in (ran.store / "objects").rglob("*")}
    assert seconds < 6  # 2 on an idle machine


def test_a_run_with_nothing_to_do_cleans_up_after_dead_ones(
    bench: Bench, ran: Ran, tmp_path: Path
) -> None:
    """They may have been killed when all was done, and no run may ever have work again."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    scratch = tmp_path / f"doorbench-{os.getuid()}-{dead.pid}-abcdefgh"
    scratch.mkdir()
    store = Store(shutil.copytree(ran.store, tmp_path / "store"))
    store.live("0" * 64, {"host": disk.host(), "pid": dead.pid})
    unfinished = store.root / "tmp" / f"a.{disk.host()}.{dead.pid}.0"
    unfinished.mkdir()
    again = bench("run", ran.grid, "--store", store.root, env={"TMPDIR": str(tmp_path)})
    assert " 0 to run" in again.stderr
    assert store.lives() == {}
    assert not scratch.exists()
    assert not unfinished.exists()


def test_the_teacher_is_the_column_beside_it(bench: Bench, ran: Ran) -> None:
    manifests = [
        json.loads(path.read_text()) for path in (ran.store / "objects").rglob("manifest.json")
    ]
    specs = [manifest["spec"] for manifest in manifests if manifest["spec"]["stage"] == "defend"]
    teachers = {
        spec["inputs"]["part.teacher"] for spec in specs if "part.teacher" in spec["inputs"]
    }
    columns = {
        m["key"]
        for m in manifests
        if m["spec"]["stage"] == "defend" and m["spec"]["component"]["name"] == "ft"
    }
    assert teachers
    assert teachers <= columns


def test_only_the_selected_cells_run(bench: Bench, ran: Ran, tmp_path: Path) -> None:
    result = bench(
        "run",
        ran.grid,
        "--store",
        tmp_path / "store",
        "-k",
        "none and 0.0 and not (wanet or badnets)",
    )
    assert result.returncode == 0, result.stderr
    kinds = sorted(
        json.loads(path.read_text())["spec"]["stage"]
        for path in (tmp_path / "store/objects").rglob("manifest.json")
    )
    assert kinds.count("victim") == 1
    assert "poison" not in kinds
    empty = bench("run", ran.grid, "--store", tmp_path / "store", "-k", "no-such-thing")
    assert empty.returncode == 5, empty.stderr


def test_a_damaged_object_is_said_aloud_and_made_again(
    bench: Bench, ran: Ran, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(ran.store, store)
    table = rows(bench, ran, store)
    for path in (store / "objects").rglob("rows.json"):
        path.write_text(path.read_text()[:-1] + " ")  # same size, other content
        break
    again = bench("run", ran.grid, "--store", store)
    assert again.returncode == 0, again.stderr
    assert "made again" in again.stderr
    same = ("attack", "defense", "victim_seed", "defense_seed", "metric", "value")
    assert [[row[k] for k in same] for row in rows(bench, ran, store)] == [
        [row[k] for k in same] for row in table
    ]


def processes(marker: str) -> list[int]:
    """Processes whose environment or arguments name `marker`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                texts = [(entry / name).read_bytes() for name in ("cmdline", "environ")]
                texts += [str((entry / "cwd").readlink()).encode()]
            except OSError:
                continue
            if any(marker.encode() in text for text in texts):
                found.append(int(entry.name))
    return found


def selected(table: list[dict[str, str]]) -> list[list[str]]:
    """Return what must be the same after kills: the numbers of the cells that `test_killed_runs...`
    runs.
    """
    same = ("attack", "defense", "victim_seed", "defense_seed", "metric", "value", "status")
    defenses = ("ft", "retrain", "scan", "widen", "none")
    cells = [row for row in table if row["attack"] == "badnets" and row["defense"] in defenses]
    assert {row["status"] for row in cells} == {"done", "incompatible"}, (
        "a scanner gives no model to measure"
    )
    return [[row[name] for name in same] for row in cells]


@pytest.mark.parametrize("victim", ["run", "worker"])
def test_killed_runs_resume_and_end_in_the_same_table(
    bench: Bench, ran: Ran, environment: Mapping[str, str], tmp_path: Path, victim: str
) -> None:
    """Three kills each of the whole run and of one of its workers, at different moments of real
    stages.
    """
    store, scratch = tmp_path / "store", tmp_path / "scratch"
    scratch.mkdir()
    env = {**environment, "TMPDIR": str(scratch)}
    selection = ("-k", "badnets and (ft or retrain or scan or widen or none)")
    made: dict[str, int] = {}
    for number in range(3):
        process = started(ran, store, env, *selection, output=subprocess.DEVNULL)
        wanted = 3 + 6 * number
        while (
            process.poll() is None
            and len(list((store / "objects").rglob("manifest.json"))) < wanted
        ):
            time.sleep(0.02)
        if victim == "run":
            process.kill()
        else:
            workers = [
                pid
                for pid in processes(str(scratch))
                if pid != process.pid and Path(f"/proc/{pid}/cwd").exists()
            ]
            inside = [
                pid for pid in workers if str(scratch) in str(Path(f"/proc/{pid}/cwd").readlink())
            ]
            for pid in inside[:1]:
                os.kill(pid, signal.SIGKILL)
        process.wait(timeout=200)
        for path in (store / "objects").rglob("manifest.json"):
            made.setdefault(path.parent.name, path.stat().st_mtime_ns)
        deadline = time.monotonic() + 10
        while processes(str(scratch)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not processes(str(scratch)), "an orphan outlived the run"
    final = bench("run", ran.grid, "--store", store, *selection, env={"TMPDIR": str(scratch)})
    assert final.returncode == 0, final.stderr
    assert selected(rows(bench, ran, store)) == selected(rows(bench, ran))
    for key, stamp in made.items():
        assert (store / "objects" / key[:2] / key / "manifest.json").stat().st_mtime_ns == stamp, (
            "made twice"
        )
    assert not list(scratch.iterdir()), "scratch of a killed run was left behind"


def test_two_runs_on_one_store_share_the_work(
    bench: Bench, ran: Ran, environment: Mapping[str, str], tmp_path: Path
) -> None:
    options = ("-k", "badnets and 0.0 and (ft or nad or none)", "--jobs", "1")
    both = [
        started(ran, tmp_path / "store", environment, *options, output=subprocess.PIPE)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    objects = list((tmp_path / "store/objects").rglob("manifest.json"))
    made = [len(re.findall(r" done [0-9.]+ s$", output, re.MULTILINE)) for output in outputs]
    assert sum(made) == len(objects), outputs
    assert min(made) > 0, "one run did all the work"


def test_interrupting_loses_nothing(
    bench: Bench, ran: Ran, environment: Mapping[str, str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    process = started(ran, store, environment, output=subprocess.PIPE)
    while process.poll() is None and len(list((store / "objects").rglob("manifest.json"))) < 3:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    kept = list((store / "objects").rglob("manifest.json"))
    assert len(kept) >= 3
    assert not list((store / "tmp").iterdir())
