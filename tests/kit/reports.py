"""Grids, plans and stores made by hand: results and reports without a component, a child or
torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from harness import grid, keys
from harness.access.context import Coordinates
from harness.components import AnyFacts, MetricFacts, PartFacts, Task
from harness.components.spec import ComponentSpec
from harness.grid import Cell
from harness.plan.cells import PlannedCell, Want
from harness.plan.plan import Plan
from harness.registry.resolved import Resolved
from harness.stages.payloads import ContextSpec, DefendPayload, Payload, Structure
from harness.stages.stage import Input, Stage
from harness.store.objects import Store
from tests.kit.payloads import AnyPayload

NETWORK = Structure(ComponentSpec("nowhere:cnn"))
CONTEXT = ContextSpec(
    Task("signs", 10, 16, 16, 3, 1000), Coordinates(0, "signs", "defend", "by hand")
)
ENVIRONMENT = {"device": "cpu", "threads": 1, "packages": {"torch": "2.11.0"}}

GRID = """
title = "By hand"
seeds = [0, 1]
[[dataset]]
name = "signs"
[[model]]
name = "cnn"
[[attack]]
name = "badnets"
[[attack]]
name = "sig"
sweep.delta = [20, 60]
[[defense]]
name = "none"
[[defense]]
name = "ft"
[[metric]]
name = "acc"
[[metric]]
name = "asr"
"""


def resolved(
    kind: str,
    name: str,
    params: Mapping[str, Any] | None = None,
    unit: str = "%",
    combines: bool = False,
) -> Resolved:
    """Make a component that nobody registered. Only the facts of metrics are real: `unit` and
    `combines`.
    """
    params = dict(params or {})
    facts: AnyFacts = PartFacts()
    if kind == "metric":
        facts = MetricFacts(unit=unit, higher_is_better=None, combines=combines, measured=False)
    return Resolved(
        kind=kind,
        name=name,
        target=f"nowhere:{name}",
        distribution="handmade",
        dist_version="1.0",
        version=1,
        params=params,
        identity=params,
        changed={},
        uses={},
        code={name: "r1"},
        needs=[],
        seeded=True,
        recipe=None,
        facts=facts,
        checks=False,
        summary="",
        citation="",
        presets=[],
    )


@dataclass
class Hand:
    """A plan of victim, defend and score stages, one of each for each cell, and the store they are
    committed to.
    """

    folder: Path
    text: str = GRID
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    combining: Sequence[str] = ()
    bound: float | None = None
    marks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    judged_apart: bool = False
    """Whether a stage of its own gives the numbers for `bound`, as where they are other metrics."""
    poisoned: bool = False
    """Whether victims stand on stages of their own that poison."""

    def __post_init__(self) -> None:
        path = self.folder / "grid.toml"
        path.write_text(self.text)
        self.grid = grid.read(path)
        self.store = Store(self.folder / "store")
        self.stages: dict[str, Stage] = {}
        self.components = {entry: self._component(entry) for entry in self.grid.entries}
        cells = [self._cell(cell) for cell in self.grid.cells]
        sizes = SimpleNamespace(training=5000, train=4000)
        graph = SimpleNamespace(
            stages=self.stages, binding=SimpleNamespace(sizes=lambda dataset: sizes)
        )
        self.plan = Plan(self.grid, cells, cast(Any, graph))
        self.plan.refresh(self.store)

    def _component(self, entry: grid.Entry) -> Resolved:
        params = {**self.params.get(entry.base, {}), **entry.params}
        if entry.kind != "metric":
            return resolved(entry.kind, entry.name, params)
        unit = self.units.get(entry.base, "%")
        return resolved(entry.kind, entry.name, params, unit, entry.base in self.combining)

    def stage(
        self,
        kind: str,
        title: str,
        inputs: Sequence[Input] = (),
        payload: Payload | None = None,
        **more: Any,
    ) -> str:
        spec = {
            "stage": kind,
            "title": title,
            "inputs": {item.role: item.key for item in inputs},
            **more,
        }
        stage = Stage(
            kind,
            keys.digest(spec),
            title,
            spec,
            {"source": "r1"},
            tuple(inputs),
            payload or AnyPayload(kind),
        )
        return self.stages.setdefault(stage.key, stage).key

    def _cell(self, cell: Cell) -> PlannedCell:
        components = {entry.kind: self.components[entry] for entry in cell.entries}
        trio = "/".join(entry.label for entry in cell.entries[:3])
        below = []
        if self.poisoned:
            poison = self.stage("poison", f"poison {trio} {cell.victim_seed}")
            below.append(Input("poison", poison, ("*",)))
        victim = last = self.stage("victim", f"train {trio} {cell.victim_seed}", below)
        defended = None
        for entry in cell.chain:
            if entry.name == "none":
                continue
            grant = self.stage(
                "grant",
                f"grant {cell.defense_seed}",
                coordinates={"replicate": cell.defense_seed, "dataset": "signs"},
                count=500,
                labelled=True,
                split="pool",
            )
            inputs = (Input("victim", last, ("*",)), Input("clean", grant, ("*",)))
            payload = DefendPayload(
                component=self.components[entry].body,
                context=CONTEXT,
                granted=(),
                structure=NETWORK,
                defended_structure=NETWORK,
                attack=None,
            )
            title = f"defend {entry.label} {trio} {cell.victim_seed}.{cell.defense_seed}"
            last = defended = self.stage("defend", title, inputs, payload=payload)
        score = self.stage("score", f"score {cell.name}", (Input("model", last, ("*",)),))
        wants = tuple(
            Want(metric.label, self.components[metric], score) for metric in self.grid.metrics
        )
        established = {}
        if self.bound:
            established["asr"] = (self._undefended(trio, cell, victim), self.bound)
        marks = self.marks.get(cell.defense.base, ())
        return PlannedCell(
            cell, components, {"epochs": 8}, victim, defended, wants, marks, established
        )

    def _undefended(self, trio: str, cell: Cell, victim: str) -> str:
        name = f"{trio}/none/{cell.victim_seed}.{cell.defense_seed}"
        if self.judged_apart:
            name += " for the bound"
        return self.stage("score", f"score {name}", (Input("model", victim, ("*",)),))

    # --- what a run would have done ---------------------------------------------------------------

    def key(self, title: str) -> str:
        return next(key for key, stage in self.stages.items() if stage.title == title)

    def commit(
        self,
        key: str,
        files: Mapping[str, Any],
        environment: Mapping[str, Any] = ENVIRONMENT,
        **record: Any,
    ) -> None:
        folder = self.folder / "made" / key
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (folder / name).write_text(json.dumps(value))
        stage = self.stages[key]
        record = {"seconds": 2.0, "environment": environment, **record}
        self.store.commit(key, folder, spec=stage.spec, code=stage.code, parents={}, record=record)

    def score(self, cell: str, **numbers: Any) -> None:
        """Commit the rows of a cell such as `badnets/ft/0.0`; several numbers of a metric as a
        dict.
        """
        rows = {}
        for name, value in numbers.items():
            rows[name] = value if isinstance(value, dict) else {"": value}
        self.commit(self.key(f"score signs/cnn/{cell}"), {"rows.json": rows})

    def defend(self, title: str, **result: Any) -> None:
        usual = {"flagged": None, "score": None, "record": {"seconds": 1.0, "images": 5.0}}
        self.commit(self.key(title), {"result.json": {**usual, **result}})

    def fail(self, title: str, message: str, status: str = "error", **more: Any) -> None:
        log = self.folder / "log.txt"
        log.write_text("what it printed\n")
        note = {"status": status, "message": message, "title": title, "outcome": "failed", **more}
        self.store.fail(self.key(title), note, log)

    def refresh(self) -> Plan:
        self.plan.refresh(self.store)
        return self.plan
