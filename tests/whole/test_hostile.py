"""Defenses that break the rules: their own cells fail, with a reason and a log, and no others."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.command import Bench
from tests.kit.harms import HARMLESS, HARMS, HEAD, hostile


@dataclass(frozen=True)
class Harmed:
    """One run of all harms."""

    result: subprocess.CompletedProcess[str]
    rows: list[dict[str, str]]
    store: Path

    def of(self, label: str) -> list[dict[str, str]]:
        return [row for row in self.rows if row["defense"] == label]


@pytest.fixture(scope="module")
def harmed(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Harmed:
    folder = tmp_path_factory.mktemp("hostile")
    secrets = folder / "private data"
    secrets.mkdir()
    (secrets / "answers.txt").write_text("secret")
    store = folder / "the store"
    text = HEAD + "".join(hostile(how) for how in (*HARMS, *HARMLESS))
    text += hostile("open", where=store / "objects").replace('as = "open"', 'as = "open-store"')
    text += hostile("open-tensors", where=store / "objects")
    text += hostile("siblings")
    text += hostile("poison-siblings")
    text += hostile("acc-in-record")
    text += '[[defense]]\nname = "forger"\n'
    text += hostile("open", where=secrets).replace('as = "open"', 'as = "open-data"')
    (folder / "grid.toml").write_text(text)
    command = (folder / "grid.toml", "--store", store)
    result = bench("run", *command, "--timeout", 5, env={"BENCH_DATA": str(secrets)})
    report = bench("report", *command, "--format", "csv")
    assert report.returncode == 1, report.stderr
    return Harmed(result, list(csv.DictReader(io.StringIO(report.stdout))), store)


def test_the_others_finish_and_the_exit_code_tells(harmed: Harmed) -> None:
    assert harmed.result.returncode == 1, harmed.result.stderr
    for label in ("none", "ft", *HARMLESS):
        statuses = {row["status"] for row in harmed.of(label)}
        assert statuses == {"done"}, (label, [row["reason"] for row in harmed.of(label)])


@pytest.mark.parametrize(("how", "reason"), HARMS.items())
def test_a_harm_fails_its_own_cells_with_a_reason(harmed: Harmed, how: str, reason: str) -> None:
    rows = [row for row in harmed.of(how) if row["metric"] in ("acc", "asr")]
    assert len(rows) == 2
    for row in rows:
        assert row["status"] == ("timed out" if how == "hang" else "failed")
        assert reason in row["reason"], row["reason"]
        assert not row["log"] or Path(row["log"]).is_file()


def test_a_record_with_the_name_of_a_metric_is_no_metric(harmed: Harmed) -> None:
    rows = [row for row in harmed.of("acc-in-record") if row["metric"] == "acc"]
    by_source = {row["source"]: row for row in rows}
    assert by_source["metric"]["status"] == "done"
    assert by_source["defense"]["status"] == "failed"
    assert "the name of a metric of this grid" in by_source["defense"]["reason"]


def test_forged_answers_fail_the_stage_that_left_them(harmed: Harmed) -> None:
    rows = [row for row in harmed.of("forger") if row["source"] == "metric"]
    assert len(rows) == 2
    for row in rows:
        assert row["status"] == "failed"
        assert (
            "its answers.safetensors is not as it should be: it holds no 'logits'" in row["reason"]
        )
    notes = [json.loads(path.read_text()) for path in harmed.store.glob("failures/*/record.json")]
    assert [note["kind"] for note in notes if "answers.safetensors" in note["message"]] == [
        "evaluate"
    ]


def test_neither_run_nor_report_has_a_bug(harmed: Harmed) -> None:
    assert "Traceback" not in harmed.result.stderr
    assert "bug in bench" not in harmed.result.stderr


CAUGHT = ("open-store", "open-data", "open-tensors", "siblings", "poison-siblings")


@pytest.mark.parametrize("label", CAUGHT)
def test_opening_what_was_not_granted_fails_the_cell(harmed: Harmed, label: str) -> None:
    for row in harmed.of(label):
        assert row["status"] == "failed"
        assert "opened" in row["reason"], row["reason"]


def test_no_grandchild_is_left(harmed: Harmed) -> None:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_text()
            except OSError:
                continue
            assert "grandchild-of-a-hostile-defense" not in command


def test_an_honest_look_around_finds_no_secret(harmed: Harmed) -> None:
    logs = [path.read_text() for path in (harmed.store / "objects").rglob("log.txt")]
    found = next(line for log in logs for line in log.splitlines() if line.startswith("SNOOPED "))
    snooped = json.loads(found.removeprefix("SNOOPED "))
    text = json.dumps(snooped)
    assert str(harmed.store) not in text
    assert "the store" not in text
    assert "BENCH_" not in text
    for word in (
        "badnets",
        "checkerboard",
        "label_table",
        "poisoned",
        "truth.json",
        "test.safetensors",
        "poison_rate",
    ):
        assert word not in text, word
    assert snooped["objects"] == []
    inputs = [name for name in snooped["files"] if name.endswith(".safetensors")]
    assert sorted(name.rpartition("inputs/")[2] for name in inputs) == [
        "clean/images.safetensors",
        "victim/model.safetensors",
    ]


def test_a_failure_is_tried_again_and_named_with_its_command(
    bench: Bench, harmed: Harmed, tmp_path: Path
) -> None:
    said = harmed.result.stderr + harmed.result.stdout
    assert "a defense that does not work" in said
    assert "try just these again" in said
    assert "log" in said


def test_a_full_disk_fails_the_cell_and_leaves_no_scratch(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(HEAD + hostile("fill-disk"))
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        arguments = (tmp_path / "grid.toml", "--store", tmp_path / "store")
        result = bench("run", *arguments, "--jobs", 1, env={"TMPDIR": str(small)})
        assert result.returncode == 1, result.stderr
        assert "disk full" in result.stderr, result.stderr
        report = bench("report", *arguments, "--format", "csv")
        status = {
            row["defense"]: row["status"] for row in csv.DictReader(io.StringIO(report.stdout))
        }
        assert status["none"] == status["ft"] == "done"
        assert status["fill-disk"] == "failed"
        assert not list(small.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)
