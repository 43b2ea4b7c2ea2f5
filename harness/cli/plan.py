"""`bench plan`: what a run would do, what it would not have to do again, and why."""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from harness.cli import planning
from harness.outcomes import Outcome
from harness.plan.history import SAMPLE, PastStages, differences
from harness.plan.plan import Plan
from harness.run.account import duration, first_line, label
from harness.stages.payloads import VictimPayload
from harness.stages.stage import Stage

LISTED = 12
"""Stages or cells of one reason that are listed without `--explain`."""

_COUNTED = (Outcome.CACHED, Outcome.TO_RUN, Outcome.INCOMPATIBLE)


def run(args: argparse.Namespace) -> int:
    """Print the plan; 0 for every grid that can be planned."""
    planned = planning.load(args)
    plan = planned.plan
    past = None
    if Outcome.TO_RUN in plan.outcome.values():
        # Differences are looked for among all objects, times in a sample of them.
        past = PastStages(planned.store, None if args.explain else SAMPLE)
    for line in _lines(plan, past, str(planned.store.root), args.explain):
        print(line)
    return 0


def _lines(plan: Plan, past: PastStages | None, store: str, explain: bool) -> Iterator[str]:
    """Yield the lines of a plan; `past` is None where nothing has to run."""
    yield f"{plan.grid.path}: {_cells(plan)}; store {store}"
    yield ""
    expected: dict[str, float | None] = {}
    by_reason: dict[str, list[Stage]] = defaultdict(list)
    for key, stage in plan.stages.items():
        if past is not None and plan.outcome.get(key) is Outcome.TO_RUN:
            expected[key] = past.expected(stage)
            reason = first_line(plan.reason.get(key, ""))
            by_reason[reason].append(stage)
    yield from _counts(plan, expected)
    yield from mirrored(plan)
    for reason, stages in by_reason.items():
        yield ""
        yield f"to run ({reason}):"
        shown = stages if explain else stages[:LISTED]
        for stage in shown:
            yield _described(stage, expected[stage.key])
            if explain and past is not None:
                yield from _explained(stage, plan, past)
        rest = len(stages) - len(shown)
        if rest:
            yield f"  and {rest} more (--explain lists all, and says what is different)"
    for reason, cells in _incompatible(plan).items():
        yield ""
        yield f"incompatible ({reason}):"
        yield from _listed(cells, explain)


def mirrored(plan: Plan) -> Iterator[str]:
    """Yield the victims whose training mirrors pictures that are other ones then."""
    for stage in plan.graph.stages.values():
        if not isinstance(stage.payload, VictimPayload):
            continue
        context = stage.payload.context
        if context.recipe is not None and context.recipe["flip"] and not context.task.mirrors:
            yield ""
            yield (
                f"note: {label(stage)} mirrors the pictures of {context.task.dataset} in training "
                "(flip = true), and a mirrored sign or digit is another one or none"
            )


def _cells(plan: Plan) -> str:
    """Count the cells: `12 cells: 8 complete, 3 to run, 1 incompatible`."""
    counts = {"complete": 0, "to run": 0, "incompatible": 0}
    for cell in plan.cells:
        outcomes = {plan.outcome[key] for key in cell.stages}
        if Outcome.TO_RUN in outcomes:
            counts["to run"] += 1
        elif Outcome.CACHED in outcomes:
            counts["complete"] += 1
        else:
            counts["incompatible"] += 1
    parts = [f"{count} {name}" for name, count in counts.items() if count]
    noun = "cell" if len(plan.cells) == 1 else "cells"
    return f"{len(plan.cells)} {noun}: {', '.join(parts)}"


def _counts(plan: Plan, expected: Mapping[str, float | None]) -> Iterator[str]:
    """Yield a table: how many stages of each kind stand how, and the work that is left."""
    kinds: dict[str, Counter[Outcome]] = defaultdict(Counter)
    work: dict[str, list[float | None]] = defaultdict(list)
    total: Counter[Outcome] = Counter()
    for key, stage in plan.stages.items():
        if key in plan.outcome:
            kinds[stage.kind][plan.outcome[key]] += 1
            total[plan.outcome[key]] += 1
        if key in expected:
            work[stage.kind].append(expected[key])
    table = [["stages", *(outcome.value for outcome in _COUNTED), "expected work"]]
    for kind, counts in kinds.items():
        table.append(_line(kind, counts, work[kind]))
    table.append(_line("all", total, list(expected.values())))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        aligned = [cells[0].ljust(widths[0])]
        for text, width in zip(cells[1:-1], widths[1:-1], strict=True):
            aligned.append(text.rjust(width))
        aligned.append(cells[-1])
        yield "  ".join(aligned).rstrip()


def _line(name: str, counts: Counter[Outcome], expected: Sequence[float | None]) -> list[str]:
    numbers = [str(counts[outcome]) for outcome in _COUNTED]
    return [name, *numbers, _work(expected)]


def _work(expected: Sequence[float | None]) -> str:
    """Say `4 min 05 s`, or what is known of it: the store may have nothing of the kind."""
    if not expected:
        return ""
    known = [seconds for seconds in expected if seconds is not None]
    if not known:
        return "unknown"
    text = duration(sum(known))
    unknown = len(expected) - len(known)
    if unknown:
        text += f" and {unknown} unknown"
    return text


def _described(stage: Stage, seconds: float | None) -> str:
    line = f"  {label(stage)}"
    if seconds is not None:
        line += f"  (about {duration(seconds)})"
    return line


def _explained(stage: Stage, plan: Plan, past: PastStages) -> Iterator[str]:
    """Yield in what a stage differs from the nearest object of the store."""
    nearest = past.nearest(stage)
    if nearest is None:
        yield f"      the store has no {stage.kind} stage to compare it with"
        return
    if nearest.key == stage.key:
        return
    inputs = {f"inputs.{item.role}": plan.graph.stages[item.key] for item in stage.inputs}
    yield f"      nearest in the store is {nearest.key[:12]}, from which it differs in"
    for line in differences(stage, nearest):
        entry = line.partition(":")[0]
        if entry in inputs:
            line += f" ({label(inputs[entry])})"
        yield f"        {line}"


def _incompatible(plan: Plan) -> dict[str, list[str]]:
    """Return names of cells by the reason why they, or those metrics of them that are named, make
    no sense.
    """
    cells: dict[str, list[str]] = defaultdict(list)
    for cell in plan.cells:
        metrics: dict[str, list[str]] = defaultdict(list)
        for want in cell.wants:
            if want.stage is None:
                metrics[want.reason or ""].append(want.label)
            elif plan.outcome[want.stage] is Outcome.INCOMPATIBLE:
                metrics[plan.reason[want.stage]].append(want.label)
        for reason, labels in metrics.items():
            name = cell.cell.name
            if len(labels) < len(cell.wants):
                name += f": {', '.join(labels)}"
            cells[first_line(reason)].append(name)
    return cells


def _listed(names: Sequence[str], everything: bool) -> Iterator[str]:
    shown = names if everything else names[:LISTED]
    for name in shown:
        yield f"  {name}"
    if len(shown) < len(names):
        yield f"  and {len(names) - len(shown)} more"
