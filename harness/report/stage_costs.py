"""What stages cost, after the manifests of what they left in the store: time, images, memory.

Reads the plan alone. A stage that several cells share is counted once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from harness.plan.plan import Plan


@dataclass(frozen=True)
class Cost:
    """What one stage cost, or the stages of one kind together.

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
        """From the record of a manifest; whatever that lacks, as one of another version may, is
        unknown.
        """
        images = record.get("images")
        return cls(
            kind,
            title,
            seconds=float(record.get("seconds", 0.0)),
            cpu_seconds=float(record.get("cpu_seconds", 0.0)),
            images=None if images is None else int(images),
            memory=record.get("peak_memory"),
            device_memory=record.get("peak_device_memory"),
            device=str(record.get("environment", {}).get("device", "")),
            rate=record.get("images_per_second"),
        )


COLUMNS = tuple(field.name for field in fields(Cost))
"""What a cost tells, in order."""


def costs(plan: Plan) -> list[Cost]:
    """One for each stage that the store held when the plan was refreshed, in the plan's order,
    upstream first.
    """
    there = ((stage, plan.manifest(key)) for key, stage in plan.stages.items())
    return [
        Cost.of(stage.kind, stage.title, manifest.record) for stage, manifest in there if manifest
    ]


def by_kind(table: Iterable[Cost]) -> list[Cost]:
    """Sums of seconds and images and the largest memory of each kind, the costliest kind first;
    last, all of them.
    """
    kinds: dict[str, list[Cost]] = {}
    for cost in table:
        kinds.setdefault(cost.kind, []).append(cost)
    summed = sorted(
        (_together(kind, some) for kind, some in kinds.items()), key=lambda one: -one.seconds
    )
    return [*summed, _together("all", [cost for some in kinds.values() for cost in some])]


def _together(kind: str, table: list[Cost]) -> Cost:
    counted = [cost for cost in table if cost.images is not None]
    images, clock = sum(cost.images or 0 for cost in counted), sum(cost.seconds for cost in counted)
    return Cost(
        kind,
        "",
        len(table),
        sum(cost.seconds for cost in table),
        sum(cost.cpu_seconds for cost in table),
        images if counted else None,
        max((cost.memory for cost in table if cost.memory is not None), default=None),
        max((cost.device_memory for cost in table if cost.device_memory is not None), default=None),
        ", ".join(sorted({cost.device for cost in table if cost.device})),
        images / clock if images and clock else None,
    )
