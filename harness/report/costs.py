"""Costs of stages, after the manifests of what they left in the store: time, images, memory; and
their tables.

Reads the plan alone. A stage that several cells share is counted once.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Self, TextIO

from harness.report.axes import Header
from harness.report.table import Position, TableCell, TextTable
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


# --- as tables ------------------------------------------------------------------------------------


def tables(table: Sequence[Cost]) -> list[TextTable]:
    """Return sums by kind of stage and, where there are several stages, the costliest ones."""
    headings = list(_HEADINGS)
    if any(cost.device_memory is not None for cost in table):
        headings.append(_GPU_HEADING)
    sums = []
    if table:
        sums = [((cost.kind,), [str(cost.stages), *_numbers(cost)]) for cost in by_kind(table)]
    made = [_table("", ("kind",), ["stages", *headings], sums)]
    if len(table) > 1:
        lines = []
        for place, cost in enumerate(_costliest_first(table)[:SHOWN], start=1):
            lines.append(((str(place), cost.kind, cost.title), _numbers(cost)))
        made.append(_table("Costliest stages", ("", "kind", "stage"), headings, lines))
    return made


def _table(
    title: str,
    axes: tuple[str, ...],
    headings: Sequence[str],
    lines: Sequence[tuple[Header, Sequence[str]]],
) -> TextTable:
    """Return a table of lines, each with its header and a text for each heading or more."""
    columns: list[Header] = [(heading,) for heading in headings]
    cells: dict[Position, TableCell] = {}
    for header, texts in lines:
        for column, text in zip(columns, texts, strict=False):
            cells[header, column] = TableCell(text)
    rows = [header for header, _ in lines]
    return TextTable(title, axes, ("",), rows, columns, cells, units={})


def _numbers(cost: Cost) -> list[str]:
    """Return the numbers of a cost, in the order of the headings."""
    return [
        f"{cost.seconds:.1f}",
        f"{cost.cpu_seconds:.1f}",
        _whole(cost.images),
        _whole(cost.rate),
        _whole(cost.memory, _MEGABYTE),
        _whole(cost.device_memory, _MEGABYTE),
    ]


def _whole(value: float | None, unit: float = 1) -> str:
    if value is None:
        return "-"
    return f"{value / unit:,.0f}"


def write_long(table: Iterable[Cost], stream: TextIO, form: str) -> None:
    """Write a line for each stage, as `csv` or as `json`."""
    if form == "json":
        listed = [json.dumps(asdict(cost), ensure_ascii=False) for cost in table]
        stream.write("[\n" + ",\n".join(listed) + "\n]\n")
        return
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cost in table:
        writer.writerow([getattr(cost, name) for name in COLUMNS])
