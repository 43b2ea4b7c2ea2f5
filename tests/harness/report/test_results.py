from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from harness import report
from harness.errors import BenchError
from harness.outcomes import Outcome
from harness.report import columns, long, provenance, results
from harness.report.long import LongForm
from harness.report.provenance import Place
from harness.report.results import Row
from tests.kit.reports import GRID, Hand, resolved


def long_form(rows, form="csv", names=(), full=False):
    stream = io.StringIO()
    LongForm(rows, names, full=full).write(stream, form)
    return stream.getvalue()


def find(rows, cell, metric="acc"):
    attack, defense, seeds = cell.split("/")
    return [
        row
        for row in rows
        if (row.attack, row.defense, f"{row.victim_seed}.{row.defense_seed}", row.metric)
        == (attack, defense, seeds, metric)
    ]


def test_every_cell_and_metric_has_a_row_in_an_empty_store(tmp_path):
    hand = Hand(tmp_path)
    rows = results.rows(hand.plan, hand.store)
    assert len(rows) == 3 * 2 * 2 * 2
    assert {row.status for row in rows} == {Outcome.TO_RUN}
    assert all(row.value is None and row.reason == "not in the store" for row in rows)
    assert [row.metric for row in rows[:2]] == ["acc", "asr"]


def test_a_number_with_its_origin(tmp_path):
    hand = Hand(tmp_path, params={"badnets": {"poison_rate": 0.1}})
    hand.score("badnets/ft/0.0", acc=91.25, asr=3.0)
    rows = results.rows(hand.refresh(), hand.store)
    (row,) = find(rows, "badnets/ft/0.0")
    assert (row.value, row.unit, row.status, row.seconds) == (91.25, "%", Outcome.DONE, 2.0)
    assert row.settings["attack"] == {"name": "badnets", "params": {"poison_rate": 0.1}}
    assert row.settings["recipe"] == {"epochs": 8}
    grant = {"count": 500, "labelled": True, "split": "pool", "dataset": "signs", "of": 5000}
    assert row.settings["grants"] == {"clean": grant}
    assert row.versions["metric"] == "handmade 1.0, acc 1"
    assert set(row.sources) == {"dataset", "model", "attack", "defense", "metric"}
    assert row.environment["packages"] == {"torch": "2.11.0"}
    assert row.stage == hand.key("score signs/cnn/badnets/ft/0.0")
    assert row.victim == hand.key("train signs/cnn/badnets 0")
    assert row.defended == hand.key("defend ft signs/cnn/badnets 0.0")
    assert find(rows, "badnets/none/0.0")[0].defended == ""


def test_swept_parameters_and_chains(tmp_path):
    text = GRID + '[[defense]]\nname = "ft"\nas = "again"\non = "ft"\n'
    hand = Hand(tmp_path, text)
    rows = results.rows(hand.plan, hand.store)
    (row,) = find(rows, "sig[delta=60]/again/1.1")
    assert row.swept == {"attack.delta": 60}
    assert row.bases["attack"] == "sig"
    assert row.on == "ft"
    assert [step["name"] for step in row.settings["on"]] == ["ft"]


@pytest.mark.parametrize(
    ("status", "outcome"), [("error", Outcome.FAILED), ("timeout", Outcome.TIMED_OUT)]
)
def test_a_failure_is_a_row_and_blocks_what_stands_on_it(tmp_path, status, outcome):
    hand = Hand(tmp_path)
    hand.fail("train signs/cnn/badnets 0", "loss is nan\nmore", status)
    hand.fail("score signs/cnn/sig[delta=20]/none/0.0", "too bad", status)
    rows = results.rows(hand.refresh(), hand.store)
    (own,) = find(rows, "sig[delta=20]/none/0.0")
    assert (own.status, own.reason) == (outcome, "too bad")
    assert own.log.endswith("log.txt")
    (below,) = find(rows, "badnets/ft/0.0")
    assert below.status is Outcome.BLOCKED
    assert below.reason == f"victim (train signs/cnn/badnets 0) {outcome.value}: loss is nan\nmore"
    assert below.log
    assert find(rows, "badnets/ft/1.1")[0].status is Outcome.TO_RUN


def test_what_a_stage_finds_incompatible(tmp_path):
    hand = Hand(tmp_path)
    hand.fail("defend ft signs/cnn/badnets 0.0", "the net has no stages", "incompatible")
    rows = results.rows(hand.refresh(), hand.store)
    (row,) = find(rows, "badnets/ft/0.0")
    assert (row.status, row.reason) == (Outcome.INCOMPATIBLE, "the net has no stages")


def test_several_numbers_and_what_the_defense_recorded(tmp_path):
    hand = Hand(tmp_path)
    hand.score("badnets/ft/0.0", acc={"top1": 90.0, "top5": 99.0}, asr=1.0)
    hand.defend(
        "defend ft signs/cnn/badnets 0.0",
        flagged=True,
        score=2.5,
        record={"pruned": 7.0, "seconds": 1.0},
    )
    rows = results.rows(hand.refresh(), hand.store)
    assert [(row.part, row.value) for row in find(rows, "badnets/ft/0.0")] == [
        ("top1", 90.0),
        ("top5", 99.0),
    ]
    own = [(row.metric, row.value) for row in rows if row.source == "defense"]
    assert own == [("flagged", 1.0), ("score", 2.5), ("pruned", 7.0)]


def test_not_established(tmp_path):
    hand = Hand(tmp_path, bound=0.9, marks={"ft": ("oracle",)})
    hand.score("badnets/none/0.0", acc=95.0, asr=89.9)
    hand.score("badnets/none/1.1", acc=95.0, asr=90.0)
    rows = results.rows(hand.refresh(), hand.store)
    assert find(rows, "badnets/none/0.0")[0].marks == ("not established",)
    assert find(rows, "badnets/ft/0.0")[0].marks == ("not established", "oracle")
    assert find(rows, "badnets/ft/1.1")[0].marks == ("oracle",)


def test_the_number_shown_tells_whether_a_victim_is_established(tmp_path):
    hand = Hand(tmp_path, bound=0.9, judged_apart=True)
    apart = "score signs/cnn/badnets/none/{0}.{0} for the bound"
    hand.score("badnets/none/0.0", acc=95.0, asr=89.9)
    hand.score("badnets/none/1.1", acc=95.0, asr=90.0)
    hand.score("badnets/ft/0.0", acc=95.0, asr=1.0)
    hand.fail(apart.format(0), "killed")
    rows = results.rows(hand.refresh(), hand.store)
    assert find(rows, "badnets/none/0.0")[0].marks == ("not established",)
    assert find(rows, "badnets/ft/0.0")[0].marks == ("not established",)
    assert find(rows, "badnets/none/1.1")[0].marks == ()


def test_a_number_whose_victim_nobody_can_judge_says_so_and_is_an_error(tmp_path):
    hand = Hand(tmp_path, GRID.replace("seeds = [0, 1]", ""), bound=0.9, judged_apart=True)
    for attack in ("badnets", "sig[delta=20]", "sig[delta=60]"):
        hand.score(f"{attack}/ft/0.0", acc=95.0, asr=1.0)
    apart = "score signs/cnn/badnets/none/0.0 for the bound"
    hand.fail(apart, "killed")
    rows = [row for row in results.rows(hand.refresh(), hand.store) if row.defense == "ft"]
    assert {row.marks for row in rows} == {("not judged",)}
    assert {row.status for row in rows} == {Outcome.DONE}
    assert results.exit_code(rows) == 1
    drawn = report.drawn(report.tables(hand.plan, results.rows(hand.plan, hand.store), None))
    assert "95.00‖" in drawn
    assert "‖ not judged: no number of the undefended victim" in drawn
    for attack in ("badnets", "sig[delta=20]", "sig[delta=60]"):
        key = hand.key(f"score signs/cnn/{attack}/none/0.0 for the bound")
        hand.commit(key, {"rows.json": {"asr": {"": 95.0}}})
    rows = [row for row in results.rows(hand.refresh(), hand.store) if row.defense == "ft"]
    assert {row.marks for row in rows} == {()}
    assert results.exit_code(rows) == 0


def test_a_metric_that_failed_beside_the_one_that_judges(tmp_path):
    hand = Hand(tmp_path, bound=0.9)
    told = {"rows": {"asr": {"": 50.0}}, "failures": {"acc": "acc is nan"}}
    hand.fail("score signs/cnn/badnets/none/0.0", "acc is nan", **told)
    hand.score("badnets/ft/0.0", acc=95.0, asr=1.0)
    table = results.rows(hand.refresh(), hand.store)
    assert find(table, "badnets/ft/0.0")[0].marks == ("not established",)


def test_what_has_not_run_is_not_marked_as_not_judged(tmp_path):
    hand = Hand(tmp_path, bound=0.9)
    assert {row.marks for row in results.rows(hand.plan, hand.store)} == {()}


def test_a_recorded_number_that_a_metric_shows_has_one_row(tmp_path):
    hand = Hand(tmp_path)
    hand.score("badnets/ft/0.0", acc=95.0, asr=7.0)
    hand.defend("defend ft signs/cnn/badnets 0.0", record={"asr": 7.0})
    rows = find(results.rows(hand.refresh(), hand.store), "badnets/ft/0.0", "asr")
    assert [(row.source, row.value) for row in rows] == [("metric", 7.0)]


def test_a_damaged_object_is_not_run_yet(tmp_path):
    hand = Hand(tmp_path)
    hand.score("badnets/ft/0.0", acc=95.0, asr=1.0)
    plan = hand.refresh()
    key = hand.key("score signs/cnn/badnets/ft/0.0")
    path = hand.store.root / "objects" / key[:2] / key / "rows.json"
    path.write_text(path.read_text().replace("95", "96"))
    (row,) = find(results.rows(plan, hand.store), "badnets/ft/0.0")
    assert row.status is Outcome.TO_RUN
    assert "altered" in row.reason


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"rows.json": {"acc": 95.0}}, "metric acc has 95.0"),
        ({"rows.json": {"acc": {"": "high"}}}, "metric acc is 'high'"),
        ({"rows.json": [1]}, "holds a list"),
        ({"other.json": {}}, "holds no 'rows.json'"),
    ],
)
def test_an_object_that_holds_no_rows_is_set_aside_and_not_run_yet(tmp_path, file, said):
    hand = Hand(tmp_path)
    key = hand.key("score signs/cnn/badnets/ft/0.0")
    hand.commit(key, file)
    (row,) = find(results.rows(hand.refresh(), hand.store), "badnets/ft/0.0")
    assert row.status is Outcome.TO_RUN
    assert said in row.reason
    assert not hand.store.has(key)


def test_a_metric_without_a_number_has_failed(tmp_path):
    hand = Hand(tmp_path)
    hand.score("badnets/ft/0.0", acc={}, asr=1.0)
    rows = results.rows(hand.refresh(), hand.store)
    (row,) = find(rows, "badnets/ft/0.0")
    assert (row.status, row.reason) == (Outcome.FAILED, "metric acc gave no number")
    (row,) = find(rows, "badnets/ft/0.0", "asr")
    assert row.value == 1.0


def test_what_a_defense_recorded_under_the_name_of_a_metric_has_failed(tmp_path):
    hand = Hand(tmp_path)
    hand.score("badnets/ft/0.0", acc=95.0, asr=1.0)
    hand.defend("defend ft signs/cnn/badnets 0.0", record={"acc": 100.0, "seconds": 1.0})
    rows = find(results.rows(hand.refresh(), hand.store), "badnets/ft/0.0")
    assert [(row.source, row.status, row.value) for row in rows] == [
        ("metric", Outcome.DONE, 95.0),
        ("defense", Outcome.FAILED, None),
    ]


def test_where_numbers_were_made(tmp_path):
    hand = Hand(tmp_path)
    gpu = {"device": "cuda:0", "gpu": "H200", "threads": 4, "packages": {"torch": "2.12.0"}}
    hand.commit(hand.key("train signs/cnn/badnets 0"), {"truth.json": {}}, gpu)
    hand.defend("defend ft signs/cnn/badnets 0.0")
    hand.score("badnets/ft/0.0", acc=95.0, asr=1.0)
    (row,) = find(results.rows(hand.refresh(), hand.store), "badnets/ft/0.0")
    assert row.places == {
        Place("torch 2.12.0", "H200", threads="4 threads"),
        Place("torch 2.11.0", "cpu", threads="1 thread"),
    }


def test_long_table(tmp_path):
    hand = Hand(tmp_path)
    hand.score("sig[delta=20]/ft/0.0", acc=91.0, asr=0.1 + 0.2)
    rows = results.rows(hand.refresh(), hand.store)
    text = long_form(rows, full=True)
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == len(rows)
    names = list(lines[0])
    assert names[-3:] == ["seconds", "log", "environment"]
    assert "attack.delta" in names
    (line,) = [line for line in lines if line["value"] and line["metric"] == "asr"]
    assert float(line["value"]) == 0.1 + 0.2
    assert (line["attack"], line["attack.delta"], line["status"]) == ("sig[delta=20]", "20", "done")
    assert json.loads(line["settings"])["attack"]["params"] == {"delta": 20}
    again = results.rows(hand.refresh(), hand.store)
    assert long_form(again, full=True) == text


def test_the_long_table_in_short_is_readable(tmp_path):
    params = {"badnets": {"poison_rate": 0.1}}
    hand = Hand(tmp_path, params=params)
    hand.score("badnets/ft/0.0", acc=91.0, asr=0.1 + 0.2)
    rows = results.rows(hand.refresh(), hand.store)
    lines = list(csv.DictReader(io.StringIO(long_form(rows))))
    assert list(lines[0])[-3:] == ["settings", "seconds", "log"]
    assert not set(lines[0]) & {"versions", "sources", "environment", "victim", "stage"}
    (line,) = [line for line in lines if line["value"] and line["metric"] == "asr"]
    assert float(line["value"]) == 0.1 + 0.2
    assert line["settings"] == (
        "signs; cnn; badnets; ft; recipe[epochs=8]; clean 500 of signs; asr"
    )
    assert max(len(value) for value in line.values()) < 100


def test_settings_in_short_are_those_that_are_not_the_default():
    used = replace(resolved("defense", "ft"), changed={"epochs": 5})
    component = replace(
        resolved("defense", "nad"),
        changed={"rates": [[0, 0.1]], "mask": {"sha256": "0123456789abcdef"}, "how": "all-to-all"},
        uses={"teacher": used},
    )
    assert provenance.brief(component) == (
        "nad[rates=[[0, 0.1]], mask=01234567, how=all-to-all, teacher=ft[epochs=5]]"
    )


def test_json_has_the_same_columns_with_types(tmp_path):
    hand = Hand(tmp_path)
    hand.score("sig[delta=20]/ft/0.0", acc=91.0, asr=0.5)
    rows = results.rows(hand.refresh(), hand.store)
    table = json.loads(long_form(rows, "json"))
    lines = list(csv.DictReader(io.StringIO(long_form(rows))))
    assert [list(row) for row in table] == [list(line) for line in lines]
    (row,) = [row for row in table if row["value"] == 0.5]
    assert (row["victim_seed"], row["attack.delta"], row["status"]) == (0, 20, "done")
    whole = json.loads(long_form(rows, "json", full=True))
    assert whole[0]["settings"]["recipe"] == {"epochs": 8}
    assert json.loads(long_form([], "json")) == []


def test_columns_by_name(tmp_path):
    hand = Hand(tmp_path, params={"badnets": {"poison_rate": 0.1}})
    rows = results.rows(hand.plan, hand.store)
    names = ["attack", "attack.poison_rate", "recipe.epochs", "status"]
    assert long_form(rows, names=names).splitlines()[:2] == [
        "attack,attack.poison_rate,recipe.epochs,status",
        "badnets,0.1,8,to run",
    ]
    with pytest.raises(BenchError, match=r"no column 'attack.rate'. Did you mean: attack\."):
        long_form(rows, names=["attack.rate"])


def test_frame(tmp_path):
    hand = Hand(tmp_path)
    hand.score("badnets/ft/0.0", acc=91.0, asr=1.0)
    rows = results.rows(hand.refresh(), hand.store)
    table = long.frame(rows)
    assert list(table.columns) == [*columns.tidy(rows), "seconds", "log"]
    assert table.query("status == 'done'")["value"].tolist() == [91.0, 1.0]


def test_settings_by_the_names_of_their_columns(tmp_path):
    text = GRID + '[[defense]]\nname = "ft"\nas = "again"\non = "ft"\n'
    hand = Hand(tmp_path, text, params={"badnets": {"poison_rate": 0.1}, "ft": {"epochs": 3}})
    table = long.frame(results.rows(hand.plan, hand.store), settings=True)
    row = table[(table["attack"] == "badnets") & (table["defense"] == "again")].iloc[0]
    assert (row["attack.poison_rate"], row["recipe.epochs"], row["on.0.name"]) == (0.1, 8, "ft")
    assert (row["on.0.epochs"], row["on.0.grants.clean.count"]) == (3, 500)
    assert row["grants.clean.split"] == "pool"
    swept = table[table["attack"] == "sig[delta=60]"].iloc[0]
    assert swept["attack.delta"] == 60
    assert swept.isna()["attack.poison_rate"]


def test_settings_of_components_that_fill_parameters():
    teacher = {"name": "ft", "params": {"epochs": 5, "rates": []}}
    settings = {
        "defense": {
            "name": "nad",
            "params": {"teacher": {"name": "ft"}},
            "uses": {"teacher": teacher},
        },
        "grants": {},
    }
    found = columns.Values().settings(Row("d", "m", "a", "nad", "", 0, 0, "acc", settings=settings))
    assert found == {
        "defense.name": "nad",
        "defense.teacher.name": "ft",
        "defense.teacher.epochs": 5,
        "defense.teacher.rates": [],
    }


def test_a_metric_without_a_number_has_its_own_reason(tmp_path):
    hand = Hand(tmp_path)
    rows = {"acc": {"": 95.0}, "asr": "no test image is attacked"}
    hand.commit(hand.key("score signs/cnn/badnets/ft/0.0"), {"rows.json": rows})
    table = results.rows(hand.refresh(), hand.store)
    assert find(table, "badnets/ft/0.0")[0].value == 95.0
    (row,) = find(table, "badnets/ft/0.0", "asr")
    assert (row.status, row.reason) == (Outcome.INCOMPATIBLE, "no test image is attacked")


def test_a_metric_that_fails_leaves_the_others_their_numbers(tmp_path):
    hand = Hand(tmp_path)
    told = {"rows": {"acc": {"": 95.0}}, "failures": {"asr": "asr is nan"}}
    hand.fail("score signs/cnn/badnets/ft/0.0", "another one's words", **told)
    table = results.rows(hand.refresh(), hand.store)
    (row,) = find(table, "badnets/ft/0.0")
    assert (row.value, row.status) == (95.0, Outcome.DONE)
    (row,) = find(table, "badnets/ft/0.0", "asr")
    assert (row.status, row.reason, row.value) == (Outcome.FAILED, "asr is nan", None)
    assert row.log.endswith("log.txt")


def test_bounds_that_an_undefined_metric_cannot_miss(tmp_path):
    hand = Hand(tmp_path, bound=0.9)
    rows = {"acc": {"": 95.0}, "asr": "no test image is attacked"}
    hand.commit(hand.key("score signs/cnn/badnets/none/0.0"), {"rows.json": rows})
    table = results.rows(hand.refresh(), hand.store)
    assert find(table, "badnets/none/0.0")[0].marks == ()


@pytest.mark.parametrize(
    ("answered", "true", "marks"),
    [(0.95, 0.25, ("collapsed",)), (0.94, 0.25, ()), (1.0, 0.8, ())],
)
def test_a_model_that_gives_one_label_to_nearly_everything_is_marked(
    tmp_path, answered, true, marks
):
    hand = Hand(tmp_path)
    rows = {"acc": {"": 25.0}, "asr": {"": 100.0}}
    key = hand.key("score signs/cnn/badnets/ft/0.0")
    shares = {"answered": answered, "true": true}
    hand.commit(key, {"rows.json": rows}, commonest=shares)
    table = results.rows(hand.refresh(), hand.store)
    assert find(table, "badnets/ft/0.0")[0].marks == marks
    assert find(table, "badnets/none/0.0")[0].marks == ()


@pytest.mark.parametrize(
    ("rate", "asked", "rate_of", "short"),
    [
        (0.06, 0.065, "train", True),
        (0.06, 0.06, "train", False),
        (0.06, 0.06001, "train", False),  # both come to 240 images
        (0.06, 0.8, "eligible", False),
    ],
)
def test_a_quota_that_was_cut_short_shows(tmp_path, rate, asked, rate_of, short):
    params = {"badnets": {"poison_rate": asked, "rate_of": rate_of}}
    hand = Hand(tmp_path, params=params, poisoned=True)
    truth = {"label_table": [0] * 10, "record": {}, "rate": rate}
    hand.commit(hand.key("poison signs/cnn/badnets 0"), {"truth.json": truth})
    hand.score("badnets/ft/0.0", acc=95.0, asr=1.0)
    table = results.rows(hand.refresh(), hand.store)
    row = find(table, "badnets/ft/0.0")[0]
    assert row.poisoned == rate
    said = f"poisoned 240 of 4000 images (0.06), where poison_rate asks for {asked:g}"
    assert row.shortfall.startswith(said) if short else row.shortfall == ""
    assert find(table, "badnets/ft/1.1")[0].poisoned is None
    (line,) = [
        line for line in csv.DictReader(io.StringIO(long_form(table))) if line["value"] == "95.0"
    ]
    assert line["poisoned"] == str(rate)
    drawn = report.drawn(report.tables(hand.plan, table, None))
    assert (said in drawn.replace("\n    ", " ")) == short
