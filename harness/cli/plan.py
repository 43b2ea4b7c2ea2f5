"""`bench plan`: what a run would do, what it would not have to do again, and why."""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from harness.cli import planning
from harness.outcomes import Outcome
from harness.run.progress import duration

if TYPE_CHECKING:
    from harness.plan.history import History
    from harness.plan.plan import Plan
    from harness.stages import Stage

LISTED = 12
"""Stages or cells of one reason that are listed without `--explain`."""

_COUNTED = (Outcome.CACHED, Outcome.TO_RUN, Outcome.INCOMPATIBLE)


def run(args: argparse.Namespace) -> int:
    """Print the plan; 0 for every grid that can be planned."""
    from harness.plan.history import SAMPLE, History

    planned = planning.load(args)
    plan = planned.plan
    most = None if args.explain else SAMPLE  # what is different is told after all that there is
    history = History(planned.store, most) if Outcome.TO_RUN in plan.outcome.values() else None
    print("\n".join(_lines(plan, history, str(planned.store.root), args.explain)))
    return 0


def _lines(plan: Plan, history: History | None, store: str, explain: bool) -> Iterator[str]:
    yield f"{plan.grid.path}: {_cells(plan)}; store {store}"
    yield ""
    expected = {key: history.expected(plan.stages[key]) for key in _to_run(plan)} if history else {}
    yield from _counts(plan, expected)
    by_reason: dict[str, list[Stage]] = defaultdict(list)
    for key in expected:
        by_reason[_first(plan.reason.get(key, ""))].append(plan.stages[key])
    for reason, stages in by_reason.items():
        yield from ("", f"to run ({reason}):")
        shown = stages if explain else stages[:LISTED]
        for stage in shown:
            seconds = expected[stage.key]
            yield f"  {stage.title}" + (
                f"  (about {duration(seconds)})" if seconds is not None else ""
            )
            if explain and history:
                yield from _explained(stage, plan, history)
        if len(shown) < len(stages):
            yield f"  and {len(stages) - len(shown)} more (--explain lists all, and says what is different)"
    for reason, cells in _incompatible(plan).items():
        yield from ("", f"incompatible ({reason}):", *_listed(cells, explain))


def _cells(plan: Plan) -> str:
    """`12 cells: 8 complete, 3 to run, 1 incompatible`."""
    counts: Counter[str] = Counter()
    for cell in plan.cells:
        outcomes = {plan.outcome[key] for key in cell.stages}
        if Outcome.TO_RUN in outcomes:
            counts["to run"] += 1
        else:
            counts["complete" if Outcome.CACHED in outcomes else "incompatible"] += 1
    told = ", ".join(
        f"{counts[name]} {name}" for name in ("complete", "to run", "incompatible") if counts[name]
    )
    return f"{len(plan.cells)} cell{'s' * (len(plan.cells) != 1)}: {told}"


def _counts(plan: Plan, expected: dict[str, float | None]) -> Iterator[str]:
    """How many stages of each kind stand how, and the work that is left."""
    kinds: dict[str, Counter[Outcome]] = defaultdict(Counter)
    left: dict[str, list[float | None]] = defaultdict(list)
    for key, stage in plan.stages.items():
        if key in plan.outcome:
            kinds[stage.kind][plan.outcome[key]] += 1
    for key, seconds in expected.items():
        left[plan.stages[key].kind].append(seconds)
    table = [["stages", *(outcome.value for outcome in _COUNTED), "expected work"]]
    for kind, found in kinds.items():
        table.append([kind, *(str(found[outcome]) for outcome in _COUNTED), _work(left[kind])])
    total = [str(sum(found[outcome] for found in kinds.values())) for outcome in _COUNTED]
    table.append(["all", *total, _work(list(expected.values()))])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for kind, *counts, work in table:
        numbers = (text.rjust(width) for text, width in zip(counts, widths[1:-1], strict=True))
        yield "  ".join([kind.ljust(widths[0]), *numbers, work]).rstrip()


def _work(expected: Sequence[float | None]) -> str:
    """`4 min 05 s`, or what is known of it: the store may have nothing of the kind."""
    known = [seconds for seconds in expected if seconds is not None]
    if not expected:
        return ""
    if not known:
        return "unknown"
    unknown = len(expected) - len(known)
    return duration(sum(known)) + (f" and {unknown} unknown" if unknown else "")


def _explained(stage: Stage, plan: Plan, history: History) -> Iterator[str]:
    from harness.plan.history import differences

    nearest = history.nearest(stage)
    if nearest is None:
        yield f"      the store has no {stage.kind} stage to compare it with"
        return
    if nearest.key == stage.key:
        return
    inputs = {f"inputs.{item.role}": plan.graph.stages[item.key] for item in stage.inputs}
    yield f"      nearest in the store is {nearest.key[:12]}, from which it differs in"
    for line in differences(stage, nearest):
        mine = inputs.get(line.partition(":")[0])
        yield f"        {line}" + (f" ({mine.title})" if mine else "")


def _incompatible(plan: Plan) -> dict[str, list[str]]:
    """Names of cells by the reason why they, or one of their metrics, make no sense."""
    found: dict[str, list[str]] = defaultdict(list)
    for cell in plan.cells:
        reasons: dict[str, list[str]] = defaultdict(list)
        for want in cell.wants:
            if want.stage is None:
                reasons[want.reason or ""].append(want.label)
            elif plan.outcome[want.stage] is Outcome.INCOMPATIBLE:
                reasons[plan.reason[want.stage]].append(want.label)
        for reason, labels in reasons.items():
            which = "" if len(labels) == len(cell.wants) else f": {', '.join(labels)}"
            found[_first(reason)].append(f"{cell.cell.name}{which}")
    return found


def _listed(names: Sequence[str], everything: bool) -> Iterable[str]:
    shown = names if everything else names[:LISTED]
    yield from (f"  {name}" for name in shown)
    if len(shown) < len(names):
        yield f"  and {len(names) - len(shown)} more"


def _to_run(plan: Plan) -> list[str]:
    return [key for key in plan.stages if plan.outcome.get(key) is Outcome.TO_RUN]


def _first(text: str) -> str:
    return text.strip().partition("\n")[0]
