"""Where a number comes from: the settings, versions, sources and machine behind it, as a reviewer
wants to see them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.keys import digest

if TYPE_CHECKING:
    from harness.grid import Entry
    from harness.plan.plan import Plan, PlannedCell
    from harness.registry.resolved import Resolved
    from harness.stages import Stage

_MOVING = frozenset({"poison", "victim", "export", "part", "defend", "evaluate", "measure"})
"""Stage kinds whose numbers may depend on torch, device and threads."""
_GRANTS = ("clean", "unlabelled")


class Settings:
    """`settings`, `versions` and `sources` of rows. What cells share is one object, however many
    rows show it.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._cells: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._told: dict[int, tuple[dict[str, Any], str, str]] = {}

    def of(self, planned: PlannedCell, metric: Resolved | None = None) -> dict[str, Any]:
        """The three members of a row of this cell, by name."""
        name = planned.cell.entries  # replicates have the same
        if name not in self._cells:
            self._cells[name] = self._cell(planned)
        cell = self._cells[name]
        if metric is None:
            return cell
        if (*name, id(metric)) not in self._rows:
            told = zip(cell.items(), self._tell(metric), strict=True)
            self._rows[*name, id(metric)] = {
                key: {**table, "metric": about} for (key, table), about in told
            }
        return self._rows[*name, id(metric)]

    def _cell(self, planned: PlannedCell) -> dict[str, Any]:
        told = {role: self._tell(component) for role, component in planned.components.items()}
        settings: dict[str, Any] = {role: table for role, (table, _, _) in told.items()}
        chain = self._chain(planned)
        settings["recipe"] = dict(planned.recipe)
        settings["grants"] = chain[-1]["grants"] if chain else {}
        if len(chain) > 1:
            settings["on"] = chain[:-1]
        return {
            "settings": settings,
            "versions": {role: version for role, (_, version, _) in told.items()},
            "sources": {role: code for role, (_, _, code) in told.items()},
        }

    def _tell(self, component: Resolved) -> tuple[dict[str, Any], str, str]:
        known = self._told.get(id(component))
        if known is None:
            version = f"{component.distribution} {component.dist_version}, {component.name} {component.version}"
            known = self._told[id(component)] = (
                describe(component),
                version,
                digest(component.code)[:16],
            )
        return known

    def _chain(self, planned: PlannedCell) -> list[dict[str, Any]]:
        """The defenses that led to the defended model, first to last, each with what it was
        granted.
        """
        found: list[dict[str, Any]] = []
        key = planned.defended
        while key is not None:
            stage = self.plan.graph.stages[key]
            told = {name: stage.payload["component"][name] for name in ("name", "params")}
            found.append({**told, "grants": self._grants(stage, planned.cell.dataset)})
            above = (item.key for item in stage.inputs if item.role == "victim")
            key = next((one for one in above if self.plan.graph.stages[one].kind == "defend"), None)
        return found[::-1]

    def _grants(self, stage: Stage, dataset: Entry) -> dict[str, Any]:
        """The images a defense got: of which data set and split, how many, and of how many it could
        have had.
        """
        specs = {
            item.role: self.plan.graph.stages[item.key].spec
            for item in stage.inputs
            if item.role in _GRANTS
        }
        if not specs:
            return {}
        total = self.plan.graph.binding.sizes(dataset).training
        return {
            role: {"dataset": spec["seed"]["dataset"], **spec["choices"], "of": total}
            for role, spec in specs.items()
        }


def describe(component: Resolved) -> dict[str, Any]:
    """Name and parameters of a component and of those that it uses."""
    uses = {name: describe(used) for name, used in component.uses.items()}
    return {"name": component.name, "params": component.params, **({"uses": uses} if uses else {})}


def place(kind: str, environment: Mapping[str, Any]) -> str:
    """`torch 2.11.0, cpu, 1 thread`; "" for a stage that gives the same numbers everywhere."""
    if kind not in _MOVING or not environment:
        return ""
    torch = environment.get("packages", {}).get("torch")
    device = environment.get("gpu") or environment.get("device")
    threads = environment.get("threads")
    told = [f"torch {torch}" if torch else "", device or ""]
    told += [f"{threads} thread{'s' * (threads != 1)}"] if threads else []
    return ", ".join(filter(None, told))
