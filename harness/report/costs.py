"""Costs of stages, after the manifests of what they left in the store: time, images, memory; and
their tables in the three formats.

Reads the plan alone. A stage that several cells share is counted once.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Self

from tabulate import tabulate

from harness.run import claims

if TYPE_CHECKING:
    from harness.plan.plan import Plan

SHOWN = 20
"""Single stages that are listed, the costliest; CSV has all."""

_HEADINGS = ("seconds", "CPU seconds", "images", "images/s", "memory [MB]")
_GPU_HEADING = "GPU memory [MB]"
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Cost:
    """The cost of one stage, or of all stages of one kind.

    `seconds` on the clock, from the child's first line to its last; `cpu_seconds` of processor
    time; `images` as the stage counted them: trained on, or predicted, where a defense's forward
    passes alone count a third; None where nobody counts. `memory` and `device_memory`: peak bytes
    of the process and of what it had on a GPU, the largest of several stages, None where unknown.
    """

    kind: str
    title: str
    stages: int = 1
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    images: int | None = None
    memory: int | None = None
    device_memory: int | None = None
    device: str = ""
    rate: float | None = None
    """Images a second; of several stages, of those that count images."""

    @classmethod
    def of(cls, kind: str, title: str, record: Mapping[str, Any]) -> Self:
        """Read the record of a manifest. Whatever it lacks, as one of another version may, is
        unknown.
        """
        images = record.get("images")
        if images is not None:
            images = int(images)
        return cls(
            kind,
            title,
            seconds=float(record.get("seconds", 0.0)),
            cpu_seconds=float(record.get("cpu_seconds", 0.0)),
            images=images,
            memory=record.get("peak_memory"),
            device_memory=record.get("peak_device_memory"),
            device=str(record.get("environment", {}).get("device", "")),
            rate=record.get("images_per_second"),
        )


COLUMNS = tuple(field.name for field in fields(Cost))
"""The fields of a cost, in order."""


def costs(plan: Plan) -> list[Cost]:
    """Return one cost for each stage that the store held when the plan was refreshed, in the plan's
    order, upstream first.
    """
    found = []
    for key, stage in plan.stages.items():
        manifest = plan.manifest(key)
        if manifest is not None:
            facts = claims.stored_facts(manifest.record)
            found.append(Cost.of(stage.kind, stage.title, facts))
    return found


def by_kind(table: Iterable[Cost]) -> list[Cost]:
    """Return sums of seconds and images and the largest memory of each kind, the costliest kind
    first; last, all of them.
    """
    kinds: dict[str, list[Cost]] = {}
    for cost in table:
        kinds.setdefault(cost.kind, []).append(cost)
    sums = []
    everything = []
    for kind, members in kinds.items():
        sums.append(_sum(kind, members))
        everything.extend(members)
    sums = _costliest_first(sums)
    sums.append(_sum("all", everything))
    return sums


def _sum(kind: str, members: Sequence[Cost]) -> Cost:
    images = 0
    seconds_of_counted = []
    memory = []
    device_memory = []
    devices = set()
    for cost in members:
        if cost.images is not None:
            images += cost.images
            seconds_of_counted.append(cost.seconds)
        if cost.memory is not None:
            memory.append(cost.memory)
        if cost.device_memory is not None:
            device_memory.append(cost.device_memory)
        if cost.device:
            devices.add(cost.device)
    clock = sum(seconds_of_counted)
    rate = None
    if images and clock:
        rate = images / clock
    return Cost(
        kind,
        title="",
        stages=len(members),
        seconds=sum(cost.seconds for cost in members),
        cpu_seconds=sum(cost.cpu_seconds for cost in members),
        images=images if seconds_of_counted else None,
        memory=max(memory, default=None),
        device_memory=max(device_memory, default=None),
        device=", ".join(sorted(devices)),
        rate=rate,
    )


def _costliest_first(table: Iterable[Cost]) -> list[Cost]:
    return sorted(table, key=attrgetter("seconds"), reverse=True)


# --- as text --------------------------------------------------------------------------------------


def text(table: Sequence[Cost], form: str = "terminal") -> str:
    """Return sums by kind of stage and the costliest stages; as `csv` one line for each stage. Ends
    in a newline.
    """
    if form == "csv":
        return _csv(table)
    if not table:
        return "(nothing to show: no stage of this grid is in the store)\n"
    style = "pipe" if form == "markdown" else "simple"
    on_gpu = any(cost.device_memory is not None for cost in table)
    parts = [_table_of_kinds(table, on_gpu, style)]
    if len(table) > 1:
        parts.append(_table_of_stages(table, on_gpu, style))
    return "\n\n".join(parts) + "\n"


def _table_of_kinds(table: Sequence[Cost], on_gpu: bool, style: str) -> str:
    header = ["kind", "stages", *_headings(on_gpu)]
    lines = []
    for cost in by_kind(table):
        numbers = _numbers(cost, on_gpu)
        lines.append([cost.kind, str(cost.stages), *numbers])
    sides = ["right"] * len(header)
    sides[0] = "left"
    return tabulate(lines, header, style, disable_numparse=True, colalign=sides)


def _table_of_stages(table: Sequence[Cost], on_gpu: bool, style: str) -> str:
    header = [*_headings(on_gpu), "costliest stages"]
    lines = []
    for cost in _costliest_first(table)[:SHOWN]:
        numbers = _numbers(cost, on_gpu)
        lines.append([*numbers, f"{cost.kind}  {cost.title}"])
    sides = ["right"] * len(header)
    sides[-1] = "left"
    return tabulate(lines, header, style, disable_numparse=True, colalign=sides)


def _headings(on_gpu: bool) -> list[str]:
    headings = list(_HEADINGS)
    if on_gpu:
        headings.append(_GPU_HEADING)
    return headings


def _numbers(cost: Cost, on_gpu: bool) -> list[str]:
    """Return the numbers of a cost, in the order of the headings."""
    numbers = [
        f"{cost.seconds:.1f}",
        f"{cost.cpu_seconds:.1f}",
        _whole(cost.images),
        _whole(cost.rate),
        _whole(cost.memory, _MEGABYTE),
    ]
    if on_gpu:
        numbers.append(_whole(cost.device_memory, _MEGABYTE))
    return numbers


def _whole(value: float | None, unit: float = 1) -> str:
    if value is None:
        return "-"
    return f"{value / unit:,.0f}"


def _csv(table: Iterable[Cost]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cost in table:
        writer.writerow([getattr(cost, name) for name in COLUMNS])
    return stream.getvalue()
