"""The origin of a number: the settings, versions, sources and machine behind it, as a reviewer
wants to see them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from harness.keys import digest
from harness.learn.recipes import Recipe
from harness.run import claims

if TYPE_CHECKING:
    from harness.grid import Entry
    from harness.plan.cells import PlannedCell
    from harness.plan.plan import Plan
    from harness.registry.resolved import Resolved
    from harness.stages.payloads import DefendPayload
    from harness.stages.stage import Stage

_MOVING = frozenset(
    {"poison", "victim", "export", "part", "defend", "stamp", "evaluate", "measure"}
)
"""Stage kinds whose numbers may depend on torch, device, processor and threads."""
_GRANTS = ("clean", "unlabelled")

Members = dict[str, Any]
"""`settings`, `versions` and `sources` of a row, each by role; `brief`, the settings in short."""


@dataclass(frozen=True)
class _Described:
    settings: dict[str, Any]
    version: str
    source: str
    brief: str


@dataclass(frozen=True, slots=True)
class _Ran:
    environment: Mapping[str, Any]
    seconds: float | None


class Place(NamedTuple):
    """What numbers may depend on beside their settings, in words; "" where nobody knows, or where
    they do not depend on it, as those of a GPU on the processor beside it.
    """

    torch: str = ""
    device: str = ""
    processor: str = ""
    instructions: str = ""
    """Of a processor, those that torch used."""
    threads: str = ""


class Settings:
    """`settings`, `versions` and `sources` of rows. Objects that cells share exist once, however
    many rows show them.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._cells: dict[tuple[Entry, ...], Members] = {}
        self._rows: dict[tuple[tuple[Entry, ...], int], Members] = {}
        self._components: dict[int, _Described] = {}
        self._usual: Mapping[str, Any] = Recipe().model_dump(mode="json")

    def of(self, planned: PlannedCell, metric: Resolved | None = None) -> Members:
        """Return the four members of a row of this cell, by name."""
        entries = planned.cell.entries  # replicates have the same
        if entries not in self._cells:
            self._cells[entries] = self._of_cell(planned)
        if metric is None:
            return self._cells[entries]
        name = (entries, id(metric))
        if name not in self._rows:
            self._rows[name] = self._with_metric(self._cells[entries], metric)
        return self._rows[name]

    def _of_cell(self, planned: PlannedCell) -> Members:
        settings: dict[str, Any] = {}
        versions: dict[str, Any] = {}
        sources: dict[str, Any] = {}
        brief = []
        for role, component in planned.components.items():
            described = self._described(component)
            settings[role] = described.settings
            versions[role] = described.version
            sources[role] = described.source
            brief.append(described.brief)
        settings["recipe"] = dict(planned.recipe)
        settings["grants"] = {}
        chain = self._chain(planned)
        if chain:
            settings["grants"] = chain[-1]["grants"]
        if len(chain) > 1:
            settings["on"] = chain[:-1]
        brief.append(_listed("recipe", self._unusual(planned.recipe)))
        for need, granted in settings["grants"].items():
            brief.append(f"{need} {granted['count']} of {granted['dataset']}")
        members: Members = {"settings": settings, "versions": versions, "sources": sources}
        members["brief"] = "; ".join(brief)
        return members

    def _unusual(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a recipe that are not the default."""
        unusual = {}
        for name, value in recipe.items():
            if value != self._usual.get(name):
                unusual[name] = value
        return unusual

    def _with_metric(self, cell: Members, metric: Resolved) -> Members:
        described = self._described(metric)
        return {
            "settings": {**cell["settings"], "metric": described.settings},
            "versions": {**cell["versions"], "metric": described.version},
            "sources": {**cell["sources"], "metric": described.source},
            "brief": f"{cell['brief']}; {described.brief}",
        }

    def _described(self, component: Resolved) -> _Described:
        described = self._components.get(id(component))
        if described is None:
            distribution = f"{component.distribution} {component.dist_version}"
            described = _Described(
                settings=describe(component),
                version=f"{distribution}, {component.name} {component.version}",
                source=digest(component.code)[:16],
                brief=brief(component),
            )
            self._components[id(component)] = described
        return described

    def _chain(self, planned: PlannedCell) -> list[dict[str, Any]]:
        """Return the defenses that led to the defended model, first to last, each with what it was
        granted.
        """
        chain = []
        key = planned.defended
        while key is not None:
            stage = self.plan.graph.stages[key]
            payload = cast("DefendPayload", stage.payload)
            defense = payload.component
            link: dict[str, Any] = {"name": defense.name, "params": defense.params}
            link["grants"] = self._grants(stage, planned.cell.dataset)
            chain.append(link)
            key = self._defense_before(stage)
        chain.reverse()
        return chain

    def _defense_before(self, stage: Stage) -> str | None:
        """Return the key of the defense whose model this one started from, if it was one."""
        for item in stage.inputs:
            if item.role == "victim" and self.plan.graph.stages[item.key].kind == "defend":
                return item.key
        return None

    def _grants(self, stage: Stage, dataset: Entry) -> dict[str, Any]:
        """Return the images a defense got: of which data set and split, how many, and of how many
        it could have had.
        """
        grants = {}
        for item in stage.inputs:
            if item.role in _GRANTS:
                spec = self.plan.graph.stages[item.key].spec
                total = self.plan.graph.binding.sizes(dataset).training
                grants[item.role] = {
                    "dataset": spec["coordinates"]["dataset"],
                    "count": spec["count"],
                    "labelled": spec["labelled"],
                    "split": spec["split"],
                    "of": total,
                }
        return grants


class Circumstances:
    """Circumstances in which stages ran, after their manifests, as far as the store still knows."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._ran: dict[str, _Ran] = {}
        self._environments: dict[str, Mapping[str, Any]] = {}
        self._latest: Mapping[str, Any] = {}
        self._places: dict[str, frozenset[Place]] = {}

    def of(self, key: str) -> dict[str, Any]:
        """Return the members of a row that tell how its stage ran, by name."""
        ran = self._run_of(key)
        return {
            "stage": key,
            "environment": ran.environment,
            "seconds": ran.seconds,
            "places": self._places_of(key),
        }

    def _places_of(self, key: str) -> frozenset[Place]:
        """Return the places where a stage and all that it depends on were made."""
        if key not in self._places:
            stage = self.plan.graph.stages[key]
            places: set[Place] = set()
            own = place(stage.kind, self._run_of(key).environment)
            if own is not None:
                places.add(own)
            for item in stage.inputs:
                places.update(self._places_of(item.key))
            self._places[key] = frozenset(places)
        return self._places[key]

    def _run_of(self, key: str) -> _Ran:
        if key not in self._ran:
            manifest = self.plan.manifest(key)
            record = claims.stored_facts(manifest.record) if manifest else {}
            environment = self._one_object(record.get("environment") or {})
            self._ran[key] = _Ran(environment, record.get("seconds"))
        return self._ran[key]

    def _one_object(self, environment: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the same object for equal environments: tens of thousands of stages ran in a
        few.
        """
        if environment != self._latest:
            text = json.dumps(environment)
            self._latest = self._environments.setdefault(text, environment)
        return self._latest


def describe(component: Resolved) -> dict[str, Any]:
    """Return name and parameters of a component and of those that it uses."""
    description: dict[str, Any] = {"name": component.name, "params": component.params}
    if component.uses:
        description["uses"] = {name: describe(used) for name, used in component.uses.items()}
    return description


def brief(component: Resolved) -> str:
    """Return name and parameters of a component in short: those that are not the default, and the
    components that it uses.
    """
    settings = {}
    for name, value in component.changed.items():
        settings[name] = value["sha256"][:8] if _is_file(value) else value
    for name, used in component.uses.items():
        settings[name] = brief(used)
    return _listed(component.name, settings)


def _is_file(value: Any) -> bool:
    """Tell whether an entry in keys is that of a file: its checksum."""
    return isinstance(value, Mapping) and set(value) == {"sha256"}


def _listed(name: str, settings: Mapping[str, Any]) -> str:
    """Return `name`, or `name[a=1, b=text]`."""
    if not settings:
        return name
    texts = []
    for key, value in settings.items():
        written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        texts.append(f"{key}={written}")
    return f"{name}[{', '.join(texts)}]"


def place(kind: str, environment: Mapping[str, Any]) -> Place | None:
    """Return what a stage ran on, as far as its manifest tells; None for a stage that gives the
    same numbers everywhere.
    """
    if kind not in _MOVING or not environment:
        return None
    torch = environment.get("packages", {}).get("torch")
    device = environment.get("gpu") or environment.get("device")
    threads = environment.get("threads")
    on_processor = device == "cpu"
    return Place(
        torch=f"torch {torch}" if torch else "",
        device=str(device or ""),
        processor=_text(environment, "processor") if on_processor else "",
        instructions=_text(environment, "cpu_capability") if on_processor else "",
        threads=_counted(threads, "thread") if threads else "",
    )


def _text(environment: Mapping[str, Any], name: str) -> str:
    return str(environment.get(name) or "")


def _counted(count: Any, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
