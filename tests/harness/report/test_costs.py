import csv
import io
import json

import pytest

from harness import report
from harness.report.costs import COLUMNS, SHOWN, Cost, by_kind, tables, write_long

GPU = {"environment": {"device": "cuda:0"}, "peak_device_memory": 3_000_000_000}


def some() -> list[Cost]:
    return [
        Cost.of(
            "victim",
            "train a",
            {"seconds": 20.0, "cpu_seconds": 19.0, "images": 1000, "peak_memory": 500_000_000},
        ),
        Cost.of(
            "victim",
            "train b",
            {"seconds": 30.0, "cpu_seconds": 25.0, "images": 1500, "peak_memory": 400_000_000},
        ),
        Cost.of("score", "score a", {"seconds": 0.5, "cpu_seconds": 0.1}),
    ]


def text(table: list[Cost], form: str = "terminal", width: int = 100) -> str:
    return report.drawn(tables(table), form, width)


def test_a_record_that_says_little_leaves_the_rest_unknown() -> None:
    cost = Cost.of("score", "score a", {})
    assert (cost.seconds, cost.images, cost.memory, cost.rate) == (0.0, None, None, None)
    assert (
        Cost.of("defend", "ft", {"seconds": 4.0, "images": 1000, "images_per_second": 250.0}).rate
        == 250.0
    )


def test_sums_by_kind() -> None:
    victims, scores, total = by_kind(some())
    assert (victims.kind, victims.stages, victims.seconds, victims.images) == (
        "victim",
        2,
        50.0,
        2500,
    )
    assert victims.memory == 500_000_000
    assert victims.rate == 50.0
    assert (scores.images, scores.rate) == (None, None)
    partly = by_kind([*some(), Cost.of("victim", "train c", {"seconds": 100.0})])[0]
    assert (partly.seconds, partly.images, partly.rate) == (150.0, 2500, 50.0)
    assert (total.kind, total.stages, total.seconds, total.cpu_seconds) == (
        "all",
        3,
        50.5,
        pytest.approx(44.1),
    )


def test_text() -> None:
    shown = text(some())
    head, _, victims, *_ = shown.splitlines()
    assert " ".join(head.split()) == ("kind stages seconds CPU seconds images images/s memory [MB]")
    assert victims.split() == ["victim", "2", "50.0", "44.0", "2,500", "50", "500"]
    assert shown.index("train b") < shown.index("train a") < shown.index("score a")
    assert "GPU" not in shown
    on_gpu = text([Cost.of("victim", "train a", {"seconds": 2.0, **GPU})])
    assert "GPU memory [MB]" in on_gpu
    assert "3,000" in on_gpu
    assert text(some(), "markdown").startswith("| kind")
    assert "nothing to show" in text([])


def test_a_long_list_is_cut_and_csv_is_not() -> None:
    many = [
        Cost("victim", f"train {number:03}", seconds=float(number)) for number in range(SHOWN + 5)
    ]
    assert text(many).count("train") == SHOWN
    stream = io.StringIO()
    write_long(many, stream, "csv")
    table = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert [row["title"] for row in table] == [cost.title for cost in many]
    assert tuple(table[0]) == COLUMNS
    assert float(table[7]["seconds"]) == 7.0


def test_json_has_what_csv_has() -> None:
    stream = io.StringIO()
    write_long(some(), stream, "json")
    found = json.loads(stream.getvalue())
    assert [tuple(row) for row in found] == [COLUMNS] * 3
    assert found[0]["images"] == 1000


@pytest.mark.parametrize("width", [60, 40])
def test_a_narrow_terminal(width: int) -> None:
    assert max(map(len, text(some(), width=width).splitlines())) <= width
