from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness.run import claims

OK = {"status": "ok", "opened": [], "environment": {"packages": {"torch": "2"}}}


def write(folder: Path, value: Any, name: str = "record.json") -> Path:
    (folder / name).write_text(json.dumps(value))
    return folder


def test_a_record_is_heard_but_not_on_what_the_host_knows(tmp_path: Path) -> None:
    mine = {"images": 500, "precision": "fp32", "classes": ["ä", "b"]}
    theirs = {"seconds": 1e-9, "cpu_seconds": 0, "peak_memory": 1, "signal": None, "log": "/x"}
    theirs |= {"host": "best", "device": "cuda", "threads": 99, "images_per_second": 1e9}
    record = claims.record(write(tmp_path, {**OK, **mine, **theirs}))
    assert record == {**OK, **mine, "type": "", "message": ""}


def test_no_record(tmp_path: Path) -> None:
    assert claims.record(tmp_path) is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"status": "splendid"}, "no status among ok, error"),
        ({"status": ["ok"]}, "no status among"),
        ({"images": "many"}, "images is 'many'; a number is expected"),
        ({"images": -1}, "0 or more"),
        ({"images": True}, "images is True"),
        ({"peak_device_memory": [1]}, r"peak_device_memory is \[1\]"),
        ({"environment": 7}, "environment is 7; a table is expected"),
        ({"environment": {"gpu": ["a"]}}, r"environment.gpu is \['a'\]"),
        ({"environment": {"gpu": "\x1b[2J"}}, "environment.gpu has control characters"),
        ({"environment": {"packages": ["torch"]}}, "environment.packages"),
        ({"environment": {"packages": {"torch": 2}}}, "environment.packages.torch is 2"),
        ({"opened": "/etc"}, "opened is '/etc'; a list"),
        ({"opened": [1]}, "opened holds 1; absolute paths"),
        ({"opened": ["/a\0b"]}, "absolute paths"),
        ({"opened": {"/a": 1}}, "opened is"),
        ({"rows": {"acc": [1]}}, "metric acc has"),
        ({"failures": {"acc": 1}}, "failures.acc is 1; a text"),
        ({"loss": float("nan")}, "nan"),
        ({"a\nb": 1}, "control characters"),
        ({"deep": json.loads("[" * 100 + "]" * 100)}, "levels deep"),
    ],
)
def test_a_record_of_wrong_types(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        claims.record(write(tmp_path, {**OK, **more}))


def test_messages_are_cleaned_and_shortened(tmp_path: Path) -> None:
    told = {"status": "error", "type": 3, "message": "\ud800\x1b[2Ja\nb", "traceback": "x" * 10**6}
    told |= {"rows": {"acc": {"": 1.5}}, "failures": {"asr": "\x07no"}}
    record = claims.record(write(tmp_path, told))
    assert record is not None
    assert (record["type"], record["message"]) == ("3", "??[2Ja\nb")
    assert len(record["traceback"]) == 200_000
    assert (record["rows"], record["failures"]) == ({"acc": {"": 1.5}}, {"asr": "?no"})
    told["message"] = "a lot" * 10**5
    record = claims.record(write(tmp_path, told))
    assert record is not None
    assert len(record["message"]) == 4000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"step": 3, "total": 10, "loss": 0.5}', {"step": 3, "total": 10, "loss": 0.5}),
        ('{"step": 3, "total": 10, "loss": "low"}', {"step": 3, "total": 10, "loss": None}),
        ('{"step": 3, "total": 10, "title": "x"}', {"step": 3, "total": 10, "loss": None}),
        ('{"step": [3], "total": 10}', None),
        ('{"step": true, "total": 10}', None),
        ('{"step": 1, "total": %s}' % ("9" * 400), None),
        ("[]", None),
        ("[" * 100_000, None),
        ("{", None),
    ],
)
def test_progress_is_numbers_or_nothing(tmp_path: Path, text: str, expected: Any) -> None:
    (tmp_path / "progress.json").write_text(text)
    assert claims.progress(tmp_path) == expected


def test_progress_is_a_plain_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "progress.json")
    assert claims.progress(tmp_path) is None
    (tmp_path / "progress.json").unlink()
    (tmp_path / "progress.json").symlink_to("/dev/zero")
    assert claims.progress(tmp_path) is None


RESULT: dict[str, Any] = {
    "flagged": None,
    "score": 1.5,
    "targets": [1],
    "suspects": [],
    "record": {},
}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rows.json", [], "rows.json is not as it should be: it holds a list"),
        ("rows.json", {"acc": 97.0}, "metric acc has 97.0; a table of its numbers"),
        ("rows.json", {"acc": {"": "97"}}, "metric acc is '97'; a number"),
        ("rows.json", {"acc": {"far": True}}, "metric acc far is True"),
        ("rows.json", {"acc": {"a\x07": 1}}, "control characters"),
        ("rows.json", {"acc": {"": float("inf")}}, "inf"),
        ("result.json", {}, "record is None; a table of numbers"),
        ("result.json", {**RESULT, "flagged": "yes"}, "flagged is 'yes'"),
        ("result.json", {**RESULT, "score": [1]}, "score is"),
        ("result.json", {**RESULT, "suspects": ["all"]}, "suspects is"),
        ("result.json", {**RESULT, "record": {"score": 1}}, "'score', which is a name of the"),
        ("result.json", {**RESULT, "record": {"pruned": "all"}}, "record.pruned is 'all'"),
        ("truth.json", {"a\nb": 1}, "truth.json is not as it should be"),
    ],
)
def test_files_of_a_stage_hold_what_they_must(name: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        claims.read(name, json.dumps(value).encode())


def test_files_of_a_stage_come_back() -> None:
    rows = {"acc": {"": 97.0}, "asr": "there is no trigger"}
    assert claims.read("rows.json", json.dumps(rows).encode()) == rows
    assert claims.read("result.json", json.dumps(RESULT).encode()) == RESULT


def test_facts_of_another_version_are_not_heard() -> None:
    assert claims.stored_facts({"images": 3, "seconds": 1.5}) == {"images": 3, "seconds": 1.5}
    assert claims.stored_facts({"images": 3, "seconds": "long"}) == {}
