from __future__ import annotations

import argparse
import io
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from harness import report
from harness.api.planning import Planned
from harness.cli import plan as plan_verb
from harness.cli import planning
from harness.cli import report as report_verb
from harness.cli import status as status_verb
from harness.errors import BenchError, GridError, StoreError
from harness.outcomes import Outcome
from harness.report import costs, results
from harness.report.axes import Axes
from harness.report.earlier import EarlierTable, read_reference
from harness.report.long import LongForm
from harness.report.reference import PaperTable
from harness.report.results import Row
from harness.report.style import Style
from tests.kit.places import ROOT
from tests.kit.reports import ENVIRONMENT, GRID, Hand

TABLE = '[[table]]\nrows = ["attack"]\ncolumns = ["defense", "metric"]\nover = ["seed"]\n'


def text(hand, form="terminal", width=100, resolver=None, best=False):
    hand.refresh()
    tables = report.tables(hand.plan, results.rows(hand.plan, hand.store), resolver)
    return report.drawn(tables, form, width, best=best)


def lines(block):
    return [line.rstrip() for line in block.strip("\n").splitlines()]


def filled(tmp_path, extra="", **more):
    """Every cell has its numbers."""
    hand = Hand(tmp_path, GRID + TABLE + extra, **more)
    for number, attack in enumerate(("badnets", "sig[delta=20]", "sig[delta=60]")):
        for seed in (0, 1):
            hand.score(f"{attack}/none/{seed}.{seed}", acc=94 + number + seed, asr=99.5)
            hand.score(f"{attack}/ft/{seed}.{seed}", acc=92 + number, asr=10 * (seed + 1))
    return hand


def test_terminal(tmp_path):
    assert lines(text(filled(tmp_path))) == lines("""
By hand

               none ---------------------  ft -----------------------
attack              acc [%]       asr [%]       acc [%]       asr [%]
-------------  ------------  ------------  ------------  ------------
badnets        94.50 ± 0.71  99.50 ± 0.00  92.00 ± 0.00  15.00 ± 7.07
sig[delta=20]  95.50 ± 0.71  99.50 ± 0.00  93.00 ± 0.00  15.00 ± 7.07
sig[delta=60]  96.50 ± 0.71  99.50 ± 0.00  94.00 ± 0.00  15.00 ± 7.07

mean ± std (n-1) over seed, n = 2
""")


def test_a_wide_table_is_cut_between_columns(tmp_path):
    found = text(filled(tmp_path), width=50)
    assert max(map(len, found.splitlines())) <= 50
    assert found.count("sig[delta=60]") == 2
    assert found.index("none ---") < found.index("ft ---")


def words(found):
    return set(found.split())


@pytest.mark.parametrize("width", [70, 50, 34, 20])
def test_a_narrow_terminal_breaks_lines_between_words_only(tmp_path, width):
    hand = filled(tmp_path, "average = true\n")
    hand.store.set_aside(hand.key("score signs/cnn/badnets/ft/1.1"), "for the test")
    found = text(hand, width=width)
    assert max(map(len, found.splitlines())) <= width
    whole = text(hand, width=300)
    numbers = {word for word in words(whole) if word[0].isdigit()}
    assert numbers <= words(found)
    if width > 30:
        assert {"sig[delta=60]", "(n=2)"} <= words(found)


def test_a_terminal_too_narrow_for_a_column_has_a_line_for_each_number(tmp_path):
    assert lines(text(filled(tmp_path), width=26))[2:7] == [
        "badnets",
        "  none acc [%]: 94.50 ±",
        "      0.71",
        "  none asr [%]: 99.50 ±",
        "      0.00",
    ]


def test_markdown(tmp_path):
    hand = filled(tmp_path)
    hand.store.set_aside(hand.key("score signs/cnn/badnets/ft/1.1"), "for the test")
    hand.fail("score signs/cnn/badnets/ft/1.1", "a | b\nand more")
    found = text(hand, "markdown").splitlines()
    assert found[0] == "### By hand"
    assert found[2].split("|")[1].strip() == "attack"
    assert [name.strip() for name in found[2].split("|")[2:-1]] == [
        "none acc [%]", "none asr [%]", "ft acc [%]", "ft asr [%]"
    ]  # fmt: skip
    assert [name.strip() for name in found[4].split("|")[1:-1]] == [
        "badnets", "94.50 ± 0.71 (n=2)", "99.50 ± 0.00 (n=2)", "92.00 (n=1) [1]", "10.00 (n=1) [1]"
    ]  # fmt: skip
    log = hand.store.failure(hand.key("score signs/cnn/badnets/ft/1.1"))["log"]
    assert found[-1] == f"- [1] 1 of 2 failed: a \\| b (log: {log})"


BETTER = {"acc": True, "asr": False}


def ranked(tmp_path, extra="", grid_=GRID, **more):
    """Two defenses, with metrics that know which way is better."""
    hand = Hand(tmp_path, grid_ + '[[defense]]\nname = "nad"\n' + TABLE + extra, **more)
    for planned in hand.plan.cells:
        for want in planned.wants:
            facts = replace(want.metric.facts, higher_is_better=BETTER[want.metric.name])
            object.__setattr__(want.metric, "facts", facts)
    return hand


def test_the_best_numbers_are_bold_on_request(tmp_path):
    hand = ranked(tmp_path, "average = true\n")
    for seed in (0, 1):
        hand.score(f"badnets/none/{seed}.{seed}", acc=99, asr=0)
        hand.score(f"badnets/ft/{seed}.{seed}", acc=90 + seed, asr=5)
        hand.score(f"badnets/nad/{seed}.{seed}", acc=80 + seed, asr=5.001)
        hand.score(f"sig[delta=20]/ft/{seed}.{seed}", acc=90, asr=5)
    line = next(
        line for line in text(hand, "markdown", best=True).splitlines() if "badnets" in line
    )
    assert [cell.strip() for cell in line.split("|")[2:-1]] == [
        "99.00 ± 0.00", "0.00 ± 0.00",
        "**90.50 ± 0.71**", "**5.00 ± 0.00**",
        "80.50 ± 0.71", "**5.00 ± 0.00**",
    ]  # fmt: skip
    assert "**" not in text(hand, "markdown")
    bold = [line for line in text(hand, "latex", best=True).splitlines() if r"\textbf" in line]
    assert len(bold) == 1
    assert bold[0].count(r"\textbf{90.50 $\pm$ 0.71}") == 1


@pytest.mark.parametrize("mark", ["oracle", "static"])
def test_what_may_not_be_ranked_is_not_the_best(tmp_path, mark):
    hand = ranked(tmp_path, marks={"nad": (mark,)}, grid_=GRID.replace("seeds = [0, 1]", ""))
    hand.score("badnets/ft/0.0", acc=90, asr=5)
    hand.score("badnets/nad/0.0", acc=99, asr=0)
    found = text(hand, "markdown", best=True)
    assert found.count("**") == (0 if mark == "oracle" else 4)


def columns_of(line):
    """Count the columns of a line of LaTeX."""
    count = 1 + line.count(" & ")
    for spanned in re.findall(r"\\multicolumn\{(\d+)\}", line):
        count += int(spanned) - 1
    return count


def check_latex(found):
    """Assert that braces and environments are balanced, and that all lines of a table have as many
    columns as it declares.
    """
    depth = 0
    for sign in re.findall(r"\\.|[{}]", found.replace("\n", " ")):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth >= 0
    assert depth == 0
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", found):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    bodies = re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", found, re.DOTALL)
    assert bodies
    for sides, body in bodies:
        rows = [line for line in body.splitlines() if line.endswith(r" \\")]
        assert len(rows) >= 3
        assert {columns_of(line) for line in rows} == {len(sides)}
        for line in rows:
            assert not line.strip().startswith(("[", "*"))


def test_latex(tmp_path):
    found = text(filled(tmp_path, "average = true\n"), "latex")
    check_latex(found)
    assert [line.strip() for line in found.splitlines()] == [
        r"% needs \usepackage[T1]{fontenc} and \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\caption{By hand. mean $\pm$ std (n-1) over seed, n = 2}",
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r" & \multicolumn{2}{c}{none} & \multicolumn{2}{c}{ft} \\".strip(),
        r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}",
        r"attack & acc {[}\%{]} & asr {[}\%{]} & acc {[}\%{]} & asr {[}\%{]} \\",
        r"\midrule",
        r"badnets & 94.50 $\pm$ 0.71 & 99.50 $\pm$ 0.00 & 92.00 $\pm$ 0.00 & 15.00 $\pm$ 7.07 \\",
        r"sig{[}delta=20{]} & 95.50 $\pm$ 0.71 & 99.50 $\pm$ 0.00 & 93.00 $\pm$ 0.00 & "
        r"15.00 $\pm$ 7.07 \\",
        r"sig{[}delta=60{]} & 96.50 $\pm$ 0.71 & 99.50 $\pm$ 0.00 & 94.00 $\pm$ 0.00 & "
        r"15.00 $\pm$ 7.07 \\",
        r"\midrule",
        r"average & 95.50 & 99.50 & 93.00 & 15.00 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_latex_of_awkward_names_and_notes(tmp_path):
    name = r"* [a_b] & 50% of $x^2 #1 {y}~z \\b <q> | -- --- `t"
    grid_ = GRID.replace('[[defense]]\nname = "ft"', f'[[defense]]\nname = "ft"\nas = "{name}"', 1)
    table = TABLE.replace('rows = ["attack"]', 'rows = ["defense"]').replace(
        '"defense", "metric"]', '"attack", "metric"]'
    )
    hand = Hand(tmp_path, grid_ + table, bound=0.9, marks={"ft": ("oracle",)})
    hand.score("badnets/none/0.0", acc=95, asr=50.0)
    hand.fail("score signs/cnn/badnets/none/1.1", "100 % of {batches} & more_\nnot this")
    found = text(hand, "latex")
    check_latex(found)
    (line,) = [
        line for line in found.splitlines() if "50" in line and "of" in line and " & " in line
    ]
    assert line.strip().startswith(
        r"{*} {[}a\_b{]} \& 50\% of \$x\textasciicircum{}2 \#1 \{y\}\textasciitilde{}z "
        r"\textbackslash{}b \textless{}q\textgreater{} \textbar{} -{}- -{}-{}- \textasciigrave{}t "
    )
    assert r"\textsuperscript{$\dagger$\,{[}1{]}}" in found
    assert (
        r"\textsuperscript{{[}1{]}} 1 of 2 failed: 100 \% of \{batches\} \& more\_ (log: " in found
    )
    assert "not this" not in found


def test_latex_of_costs(tmp_path):
    hand = filled(tmp_path)
    found = report.drawn(costs.tables(costs.costs(hand.refresh())), "latex")
    check_latex(found)
    assert "Costliest stages" in found


def test_what_stands_in_place_of_numbers(tmp_path):
    hand = Hand(
        tmp_path, GRID.replace("seeds = [0, 1]", "") + TABLE, marks={"ft": ("oracle",)}, bound=0.9
    )
    hand.score("badnets/none/0.0", acc=95, asr=50.0)
    hand.score("badnets/ft/0.0", acc=94, asr=1.0)
    hand.fail("train signs/cnn/sig[delta=20] 0", "no convergence")
    hand.fail("defend ft signs/cnn/sig[delta=60] 0.0", "no stages", "incompatible")
    hand.fail("score signs/cnn/sig[delta=60]/none/0.0", "no result after 5 s", "timeout")
    found = text(hand, width=300).splitlines()
    assert found[5].split() == ["badnets", "95.00†", "50.00†", "94.00†‡", "1.00†‡"]
    assert found[6].split() == ["sig[delta=20]", *["failed[1]"] * 2, *["blocked[2]"] * 2]
    assert found[7].split() == ["sig[delta=60]", *["timed", "out[3]"] * 2, *["–[4]"] * 2]
    notes = "\n".join(found[8:])
    assert "[1] failed: no convergence (log: " in notes
    above = "victim (train signs/cnn/sig[delta=20] 0)"
    assert f"[2] blocked: {above} failed: no convergence (log: " in notes
    assert "[3] timed out: no result after 5 s (log: " in notes
    assert "[4] incompatible: no stages" in notes
    assert "† not established" in notes
    assert "‡ oracle" in notes
    assert "n =" not in notes


def test_the_average_row(tmp_path):
    hand = filled(tmp_path, "average = true\n")
    assert text(hand).splitlines()[-3].split() == ["average", "95.50", "99.50", "93.00", "15.00"]
    for metric in (0, 1):
        hand.store.set_aside(
            hand.key(f"score signs/cnn/sig[delta=60]/ft/{metric}.{metric}"), "for the test"
        )
    found = text(hand)
    assert found.splitlines()[9].split() == ["average", "95.50", "99.50", "92.50[1]", "15.00[1]"]
    assert "[1] over 2 of 3 rows" in found


def test_sweeps_as_axes_of_their_own(tmp_path):
    table = (
        '[[table]]\nrows = ["attack", "attack.delta"]\ncolumns = ["defense"]\n'
        'over = ["seed"]\nmetrics = ["acc"]\n'
    )
    hand = filled(tmp_path, table)
    found = text(hand).split("\n\n")
    assert [line.split()[:2] for line in found[3].splitlines()[2:]] == [
        ["badnets", "–"],
        ["sig", "20"],
        ["sig", "60"],
    ]
    assert "acc in %" in found[4]


def test_over_a_sweep(tmp_path):
    table = (
        '[[table]]\nrows = ["attack"]\ncolumns = ["defense"]\n'
        'over = ["seed", "attack.delta"]\nmetrics = ["acc"]\n'
    )
    found = text(filled(tmp_path, table)).split("\n\n")[3].splitlines()
    assert [line.split()[0] for line in found[2:]] == ["badnets", "sig"]
    assert "(n=4)" in found[3]


def row(**more):
    kept = {
        "dataset": "signs",
        "model": "cnn",
        "attack": "badnets",
        "defense": "ft",
        "metric": "acc",
        "value": 1.0,
    }
    return Row(**{**kept, "on": "", "victim_seed": 0, "defense_seed": 0, **more})


@pytest.mark.parametrize(
    ("one", "other", "axis"),
    [
        ({}, {"victim_seed": 1}, "victim-seed"),
        ({}, {"model": "net"}, "model"),
        ({}, {"metric": "asr"}, "metric"),
        ({"part": "a"}, {"part": "b"}, "metric"),
        ({"swept": {"model.width": 1}}, {"swept": {"model.width": 2}}, "model.width"),
    ],
)
def test_nothing_is_averaged_that_is_not_named(tmp_path, one, other, axis):
    hand = Hand(tmp_path, GRID + TABLE)
    table = SimpleNamespace(
        rows=("attack",),
        columns=("defense",),
        over=("defense-seed",),
        place=hand.grid.tables[0].place,
    )
    group = [row(**one), row(**other)]
    with pytest.raises(BenchError, match=f"averages over {axis}, which it does not name"):
        Axes(table, group).check(group)
    Axes(table, group).check(group[:1] * 2)


def test_a_metric_of_several_numbers_has_a_column_each(tmp_path):
    hand = Hand(tmp_path, GRID.replace("seeds = [0, 1]", "") + TABLE)
    hand.score("badnets/none/0.0", acc={"top1": 90, "top5": 99}, asr=1)
    found = text(hand).splitlines()
    assert found[3].split()[:5] == ["attack", "acc", "(top1)", "[%]", "acc"]
    assert found[5].split() == ["badnets", "90.00", "99.00", "1.00", "…", "…", "…"]


def test_own_combinations(tmp_path):
    asked = []

    def combine_all(groups):
        asked.extend(groups)
        return [{"min": min(values), "max": max(values)} for _, values in groups]

    hand = filled(tmp_path, combining=("asr",))
    found = text(hand, resolver=SimpleNamespace(combine_all=combine_all), width=200)
    assert "min 10.00, max 20.00" in found
    assert {metric.name for metric, _ in asked} == {"asr"}
    assert len(asked) == 6


def test_one_footnote_for_a_reason_that_several_stages_have(tmp_path):
    hand = Hand(tmp_path, GRID + TABLE)
    for seed in (0, 1):
        for attack in ("badnets", "sig[delta=20]"):
            hand.fail(f"score signs/cnn/{attack}/ft/{seed}.{seed}", "no convergence")
    found = [line for line in text(hand).splitlines() if "no convergence" in line]
    assert len(found) == 1
    assert found[0].startswith("[1] failed: no convergence (log:")


def test_an_average_counts_each_row_once_whatever_its_metric_combines(tmp_path):
    """A row with four replicates weighs no more than one with a single one."""
    more = '[[attack]]\nname = "blend"\nseeds = [0]\n'
    hand = Hand(tmp_path, GRID + more + TABLE + "average = true\n", combining=("asr",))
    for seed in (0, 1):
        hand.score(f"badnets/ft/{seed}.{seed}", acc=90.0, asr=100.0 * seed)
    hand.score("blend/ft/0.0", acc=80.0, asr=100.0)

    def combine_all(groups):
        return [{"mean": sum(values) / len(values), "n": len(values)} for _, values in groups]

    found = text(hand, resolver=SimpleNamespace(combine_all=combine_all), width=200)
    (average,) = [line for line in found.splitlines() if line.startswith("average")]
    assert "75.00" in average
    assert "66.67" not in average


def test_mixed_environments_are_said_aloud(tmp_path):
    hand = filled(tmp_path)
    hand.commit(
        hand.key("train signs/cnn/badnets 0"), {"truth.json": {}}, {**ENVIRONMENT, "threads": 8}
    )
    hand.commit(hand.key("train signs/cnn/badnets 1"), {"truth.json": {}}, ENVIRONMENT)
    found = text(hand, width=200).splitlines()[-1]
    assert found == (
        "Warning: these numbers were made in different environments, which differ in number of "
        "threads: 1 thread (4 of 24 values); 8 threads (4 of 24 values)"
    )


INTEL = {"processor": "Xeon", "cpu_capability": "AVX512"}
AMD = {"processor": "EPYC", "cpu_capability": "AVX512"}
OLDER = {"processor": "EPYC", "cpu_capability": "AVX2"}
GPU = {"device": "cuda", "gpu": "H200"}


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        (INTEL, AMD, "processor: EPYC (4 of 24 values); Xeon (4 of 24 values)"),
        (AMD, OLDER, "instruction set: AVX2 (4 of 24 values); AVX512 (4 of 24 values)"),
        (
            INTEL,
            OLDER,
            "processor, instruction set: EPYC, AVX2 (4 of 24 values); "
            "Xeon, AVX512 (4 of 24 values)",
        ),
        (AMD, {**AMD, **GPU}, "device: H200 (4 of 24 values); cpu (4 of 24 values)"),
        ({**AMD, **GPU}, {**AMD, **GPU, "gpu": "A100"}, "device: A100 (4 of 24 values); H200"),
        (INTEL, {"packages": {"torch": "2.9.1"}}, "version of torch: torch 2.11.0 (4 of 24"),
        (AMD, AMD, ""),
        (AMD, {}, ""),  # nobody knows
        ({**AMD, **GPU}, {**INTEL, **GPU}, ""),  # it is the GPU that computes
    ],
)
def test_what_differs_between_environments_is_named(tmp_path, one, other, differ):
    hand = filled(tmp_path)
    for seed, environment in enumerate((one, other)):
        key = hand.key(f"train signs/cnn/badnets {seed}")
        hand.commit(key, {"truth.json": {}}, {**ENVIRONMENT, **environment})
    found = text(hand, width=300).splitlines()[-1]
    assert found.startswith("Warning: ") == bool(differ)
    if differ:
        assert f"environments, which differ in {differ}" in found


@pytest.mark.parametrize(
    ("unit", "values", "shown"),
    [
        ("%", [91.234, 92.0], "91.62 ± 0.54"),
        ("s", [3.0], "3.00"),
        ("", [12.0], "12"),
        ("", [12.0, 13.0], "12.5 ± 0.7"),
        ("", [22.625], "22.62"),
        ("", [0.01234], "0.0123"),
    ],
)
def test_numbers(unit, values, shown):
    assert Style.of(unit, values).write(values) == shown


HEADER = "paper,table,dataset,model,attack,variant,defense,metric,value,std,unit,note\n"


def reference(tmp_path, *told):
    path = tmp_path / "paper.csv"
    path.write_text(HEADER + "".join(f"p,1,{line}\n" for line in told))
    return PaperTable.read(path)


def settings(attack=None, defense=None, **grant):
    grants = (
        {"clean": {"dataset": "signs", "labelled": True, "split": "pool", "of": 5000, **grant}}
        if grant
        else {}
    )
    return {
        "attack": {
            "name": "badnets",
            "params": {"label_map": "all-to-one", "rate_of": "train", **(attack or {})},
        },
        "defense": {"name": "ft", "params": defense or {}},
        "grants": grants,
    }


@pytest.mark.parametrize(
    ("variant", "mine", "matches"),
    [
        ("", {}, True),
        ("poison_rate=0.1", {"attack": {"poison_rate": 0.1}}, True),
        ("poison_rate=0.1", {"attack": {"poison_rate": 0.05}}, False),
        ("poison_rate_target=0.8", {"attack": {"poison_rate": 0.8}}, False),
        (
            "poison_rate_target=0.8",
            {"attack": {"poison_rate": 0.8, "rate_of": "eligible", "eligible": "target"}},
            True,
        ),
        ("target_mode=all-to-all", {}, False),
        ("clean_size=500;labels=yes", {"count": 500}, True),
        ("clean_size=2500", {"count": 500}, False),
        ("holdout=500", {"count": 500}, True),
        ("clean_frac=0.1", {"count": 500}, True),
        ("clean_frac=0.05", {"count": 500}, False),
        ("labels=no", {"count": 500}, False),
        ("delta=20;f=6", {"attack": {"delta": 20.0, "f": 6}}, True),
        ("eps=8/255", {"defense": {"eps": 8 / 255}}, True),
        ("eps=8", {"defense": {"eps": 8 / 255}}, True),
        ("radius=8", {"defense": {"radius": 8 / 255}}, True),
        ("radius=9", {"defense": {"radius": 8 / 255}}, False),
        ("lr=0.51", {"defense": {"lr": 0.002}}, False),
        ("lr=0.02", {"defense": {"lr": 0.01}}, False),
        ("alpha=0.5", {"attack": {"alpha": 1.0}, "defense": {"alpha": 0.5}}, True),
        ("reconstruct=no", {"defense": {"reconstruct": False}}, True),
        ("background=city", {}, True),
    ],
)
def test_reference_joins_by_settings(tmp_path, variant, mine, matches):
    paper = reference(tmp_path, f"signs,cnn,badnets,{variant},ft,acc,92.76,,%,")
    found = paper.find(row(settings=settings(**mine)))
    assert found == (("92.76", "") if matches else ("", ""))


def test_a_key_that_tells_undefended_models_apart_is_the_attackers(tmp_path):
    paper = reference(
        tmp_path,
        "signs,cnn,badnets,alpha=0.2,none,acc,1,,%,",
        "signs,cnn,badnets,alpha=0.2,ft,acc,2,,%,",
    )
    mine = settings(attack={"alpha": 0.3}, defense={"alpha": 0.2})
    assert paper.find(row(settings=mine)) == ("", "")


def test_several_variants_leave_a_blank_with_the_reason(tmp_path):
    paper = reference(
        tmp_path,
        "signs,cnn,badnets,init=a,ft,acc,1.0,,%,",
        "signs,cnn,badnets,init=b,ft,acc,2.0,,%,",
    )
    assert paper.find(row()) == (
        "",
        "paper.csv has 2 numbers for this, which differ in init = a, b",
    )
    assert paper.find(row(settings={"defense": {"params": {"init": "b"}}})) == ("2.0", "")


def test_reference_joins_by_label(tmp_path):
    paper = reference(
        tmp_path,
        "signs,cnn,badnets,,Ours,acc,1.0,,%,",
        "signs,cnn,sig,delta=20,ft,acc,2.0,,%,",
        "signs,cnn,average,delta=20,ft,acc,3.0,,%,",
        "signs,cnn,badnets,,ft,time_min,1.5,,min,",
    )
    assert paper.find(row(defense="Ours", settings=settings())) == ("1.0", "")
    assert paper.find(row(defense="ft-high", settings=settings())) == ("", "")
    swept = row(
        attack="sig[delta=20]",
        bases={"attack": "sig"},
        settings={"attack": {"params": {"delta": 20}}},
    )
    assert paper.find(swept) == ("2.0", "")
    assert paper.find(row(attack="sig", on="Ours", settings=settings())) == ("", "")
    assert paper.average([[row()], [swept]], ["attack"]) == ("3.0", "")
    assert paper.find(row(metric="time", unit="s")) == ("90", "")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("a,b\n1,2\n", "no column 'dataset'"),
        (HEADER + "p,1,signs\n", ":2: another number of fields"),
    ],
)
def test_a_broken_reference(tmp_path, content, what):
    path = tmp_path / "paper.csv"
    path.write_text(content)
    with pytest.raises(BenchError, match=what):
        PaperTable.read(path)


def test_every_reference_in_the_box_is_read():
    for path in (ROOT / "benchmarks" / "reference").glob("*.csv"):
        assert PaperTable.read(path).lines


def earlier(tmp_path, hand, name="earlier.csv"):
    """Write the report of a grid to a file that another one names as its reference."""
    with (tmp_path / name).open("w") as stream:
        LongForm(results.rows(hand.refresh(), hand.store)).write(stream, "csv")


def later(tmp_path, table):
    (tmp_path / "later").mkdir()
    hand = Hand(tmp_path / "later", GRID + table + 'reference = "../earlier.csv"\n')
    for seed in (0, 1):
        hand.score(f"badnets/none/{seed}.{seed}", acc=90, asr=1)
        hand.score(f"sig[delta=20]/none/{seed}.{seed}", acc=80, asr=1)
    return hand


def test_numbers_of_an_earlier_report_beside_ours(tmp_path):
    earlier(tmp_path, filled(tmp_path))
    hand = later(tmp_path, TABLE + "average = true\n")
    found = text(hand, width=150).splitlines()
    row_of = {line.split()[0]: line for line in found if line and line[0].isalpha()}
    assert "90.00 ± 0.00 (94.50)" in row_of["badnets"]
    assert "80.00 ± 0.00 (95.50)" in row_of["sig[delta=20]"]
    assert "… (92.00)" in row_of["badnets"]
    assert "85.00 (95.50)" in row_of["average"]
    assert (
        found[-1].endswith("in parentheses: earlier.csv") or "in parentheses: earlier.csv" in found
    )


def test_replicates_of_an_earlier_report_where_the_table_tells_them_apart(tmp_path):
    earlier(tmp_path, filled(tmp_path))
    table = '[[table]]\nrows = ["attack", "seed"]\ncolumns = ["defense", "metric"]\n'
    found = text(later(tmp_path, table), width=150)
    lines_of = [line for line in found.splitlines() if line.startswith("badnets")]
    assert ["(94.00)" in lines_of[0], "(95.00)" in lines_of[1]] == [True, True]


def test_what_an_earlier_report_does_not_have(tmp_path):
    before = Hand(tmp_path, GRID + TABLE)
    before.score("badnets/none/0.0", acc=94, asr=1)
    earlier(tmp_path, before)
    found = text(later(tmp_path, TABLE + "average = true\n"), width=150)
    assert "90.00 ± 0.00 (94.00)" in found
    (average,) = [line for line in found.splitlines() if line.startswith("average")]
    assert "(" not in average  # of one of its two rows there is no number


def test_what_a_defense_recorded_earlier_is_no_metric_of_today(tmp_path):
    before = Hand(tmp_path, GRID.replace('[[metric]]\nname = "acc"\n', "") + TABLE)
    before.defend("defend ft signs/cnn/badnets 0.0", record={"acc": 5.0})
    earlier(tmp_path, before)
    assert "5.0,,done,,,,defense" in (tmp_path / "earlier.csv").read_text()
    assert "(5" not in text(later(tmp_path, TABLE), width=150)


def test_reports_of_earlier_versions_are_read_and_broken_ones_are_not(tmp_path):
    hand = Hand(tmp_path, GRID + TABLE)
    for path in sorted((ROOT / "results").glob("*.csv")):
        found = read_reference(path, hand.grid.tables[0])
        assert isinstance(found, EarlierTable), path
        assert found.values, path
    for path in (ROOT / "benchmarks" / "reference").glob("*.csv"):
        assert isinstance(read_reference(path, hand.grid.tables[0]), PaperTable), path
    header = "dataset,model,attack,defense,victim_seed,defense_seed,metric,value,status\n"
    broken = tmp_path / "broken.csv"
    for value in ("", "many", "nan"):
        broken.write_text(f"{header}signs,cnn,badnets,ft,0,0,acc,{value},done\n")
        with pytest.raises(
            BenchError, match=rf"broken.csv:2: value '{value}' of a row that is done"
        ):
            read_reference(broken, hand.grid.tables[0])
    broken.write_text(header.replace("defense,", "").replace("defense_seed", "seed"))
    with pytest.raises(BenchError, match=r"broken\.csv:1: no column 'defense'"):
        read_reference(broken, hand.grid.tables[0])


def test_the_papers_number_beside_ours(tmp_path):
    lines = ["signs,cnn,badnets,,ft,acc,90.1,,%,", "signs,cnn,average,,none,acc,91.5,,%,"]
    reference(
        tmp_path,
        *lines,
        "signs,cnn,badnets,x=1,none,asr,1,,%,",
        "signs,cnn,badnets,x=2,none,asr,2,,%,",
    )
    found = text(filled(tmp_path, 'average = true\nreference = "paper.csv"\n'), width=120)
    assert "92.00 ± 0.00 (90.1)" in found
    assert "95.50 (91.5)" in found
    assert "99.50 ± 0.00[1]" in found
    assert "[1] paper.csv has 2 numbers for this, which differ in x = 1, 2" in found
    assert "in parentheses: paper.csv" in found


# --- the verbs ------------------------------------------------------------------------------------


@pytest.fixture
def loaded(monkeypatch):
    """Makes the verbs plan by hand."""

    def use(hand):
        planned = Planned(hand.refresh(), hand.store, None)
        monkeypatch.setattr(planning, "load", lambda args, make=True: planned)
        return argparse.Namespace(
            grid=hand.grid.path,
            store=hand.store.root,
            select=None,
            explain=False,
            costs=False,
            verbose=False,
            forget=False,
            format="terminal",
            output=None,
            best=False,
            columns=None,
            full=False,
        )

    return use


def test_report_verb(tmp_path, loaded, capsys):
    hand = filled(tmp_path)
    args = loaded(hand)
    assert report_verb.run(args) == 0
    assert "94.50 ± 0.71" in capsys.readouterr().out
    hand.store.set_aside(hand.key("score signs/cnn/badnets/ft/1.1"), "for the test")
    args = loaded(hand)
    args.output = tmp_path / "table.md"
    args.format = "markdown"
    assert report_verb.run(args) == 1
    assert args.output.read_text().startswith("### By hand\n")
    assert capsys.readouterr().out == ""
    args.output = tmp_path / "no" / "table.md"
    with pytest.raises(BenchError, match="--output"):
        report_verb.run(args)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"best": True}, "--best: goes with --format markdown or latex"),
        ({"best": True, "format": "csv"}, "--best: goes with --format markdown or latex"),
        ({"full": True}, "--full: goes with --format csv or json"),
        ({"columns": "acc", "format": "latex"}, "--columns: goes with --format csv or json"),
        ({"full": True, "format": "csv", "costs": True}, "and not with --costs"),
        ({"full": True, "columns": "value", "format": "csv"}, "--columns and --full: say which"),
        ({"columns": "valeu", "format": "csv"}, "no column 'valeu'. Did you mean: value"),
    ],
)
def test_options_that_do_nothing_together(tmp_path, loaded, options, said):
    args = loaded(Hand(tmp_path, GRID + TABLE))
    vars(args).update(options)
    with pytest.raises(BenchError) as caught:
        report_verb.run(args)
    assert said in str(caught.value)


@pytest.mark.parametrize("form", ["csv", "json", "latex", "markdown"])
def test_costs_in_every_format(tmp_path, loaded, form, capsys):
    args = loaded(filled(tmp_path))
    args.costs = True
    args.format = form
    assert report_verb.run(args) == 0
    assert "score" in capsys.readouterr().out


def test_report_as_a_part_of_run(tmp_path):
    hand = filled(tmp_path)
    stream = io.StringIO()
    rows = results.rows(hand.refresh(), hand.store)
    report_verb.write(Planned(hand.plan, hand.store, None), rows, stream)
    assert stream.getvalue() == text(hand, width=120)


def test_plan_verb(tmp_path, loaded, capsys):
    hand = Hand(tmp_path, GRID.replace("seeds = [0, 1]", ""))
    hand.score("badnets/none/0.0", acc=95, asr=50.0)
    hand.fail("train signs/cnn/sig[delta=20] 0", "no convergence\nat all")
    hand.fail("defend ft signs/cnn/sig[delta=60] 0.0", "no stages", "incompatible")
    args = loaded(hand)
    assert plan_verb.run(args) == 0
    out = capsys.readouterr().out
    assert "6 cells: 1 complete, 4 to run, 1 incompatible; store" in out
    assert "score        1       4             1  8.0 s\n" in out
    assert "all          1      10             2  8.0 s and 6 unknown\n" in out
    assert (
        "to run (failed before: no convergence):\n  victim  train signs/cnn/sig[delta=20] 0\n"
        in out
    )
    assert "incompatible (no stages):\n  signs/cnn/sig[delta=60]/ft/0.0\n" in out
    args.explain = True
    plan_verb.run(args)
    out = capsys.readouterr().out
    assert (
        'title: "score signs/cnn/badnets/ft/0.0" here, "score signs/cnn/badnets/none/0.0" there'
        in out
    )
    assert "inputs.model: another object (defend  defend ft signs/cnn/badnets 0.0)" in out
    assert "the store has no defend stage to compare it with" in out


def test_status_verb(tmp_path, loaded, capsys):
    hand = Hand(tmp_path, GRID.replace("seeds = [0, 1]", ""))
    hand.score("badnets/none/0.0", acc=95, asr=50.0)
    args = loaded(hand)
    assert status_verb.run(args) == 0
    assert "nothing is running\n\nnothing has failed" in capsys.readouterr().out
    hand.fail("train signs/cnn/sig[delta=20] 0", "no convergence\nat all")
    import time

    progress = {"step": 25, "total": 100, "loss": 0.5}
    live = {
        "title": "train it",
        "slot": "cpu.0",
        "host": "elsewhere",
        "pid": 1,
        "started": time.time() - 10,
    }
    hand.store.live(hand.key("train signs/cnn/badnets 0"), {**live, "progress": progress})
    args = loaded(hand)
    assert status_verb.run(args) == 1
    out = capsys.readouterr().out
    assert "6 cells: 2 blocked, 3 to run, 1 done" in out
    assert "cpu.0 of elsewhere, 10.0 s, step 25 of 100, loss 0.5, about 30" in out
    title = "    train signs/cnn/sig[delta=20] 0\n"
    assert f"failed: 1\n  failed: no convergence\n{title}      log: " in out
    args.grid = None
    assert status_verb.run(args) == 1
    assert f"failed: 1\n  failed: no convergence\n{title}" in capsys.readouterr().out


def test_no_store_is_no_empty_table(tmp_path):
    args = argparse.Namespace(grid=None, store=tmp_path / "none", forget=False)
    with pytest.raises(StoreError, match="there is no store"):
        status_verb.run(args)
    assert not (tmp_path / "none").exists()


def test_exit_code_of_rows():
    assert results.exit_code([row(), row(status=Outcome.INCOMPATIBLE)]) == 0
    assert results.exit_code([row(), row(status=Outcome.BLOCKED)]) == 1


def test_a_grid_error_is_not_hidden(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text("nonsense = 1\n")
    with pytest.raises(GridError):
        planning.load(argparse.Namespace(grid=path, store=tmp_path / "store", select=None))


def test_one_result_under_several_defense_seeds_counts_once(tmp_path):
    """Two victims and no defense are two numbers, however many defense seeds the grid names."""
    text_ = GRID.replace("seeds = [0, 1]", "seeds = {victim = [0, 1], defense = [0, 1, 2]}") + TABLE
    hand = Hand(tmp_path, text_)
    for victim, accuracy in ((0, 12.0), (1, 13.0)):
        for defense in range(3):
            hand.score(f"badnets/none/{victim}.{defense}", acc=accuracy, asr=1.0)
    rows = [
        replace(row, stage=f"victim {row.victim_seed}") if row.defense == "none" else row
        for row in results.rows(hand.refresh(), hand.store)
    ]
    found = report.drawn(report.tables(hand.plan, rows, SimpleNamespace()), "terminal", 300)
    assert "12.50 ± 0.71" in found
    assert "n = 2" in found


def test_costs_are_of_what_the_store_holds(tmp_path, loaded, capsys):
    hand = filled(tmp_path)
    args = loaded(hand)
    args.costs = True
    assert report_verb.run(args) == 0
    held = [key for key in hand.stages if hand.store.manifest(key) is not None]
    total = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("all"))
    assert total.split()[1:3] == [str(len(held)), f"{2.0 * len(held):.1f}"]
