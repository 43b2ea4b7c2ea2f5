"""What fills the parameters that are components: their stages, and how the owner's process opens
them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from harness.components import Task
from harness.errors import PluginError
from harness.stages import Input, Stage
from harness.stages.defend import FILES as DEFENDED

if TYPE_CHECKING:
    from harness.plan.graph import Graph, Setting, Suspect
    from harness.registry.resolved import Resolved


@dataclass(frozen=True)
class Filled:
    """The parts of one owner: upstream files, what its body opens, and those that enter the key as
    they stand.

    A model that fills a parameter is built afresh where it is used, so it has no stage and is in
    the key by itself.
    """

    inputs: tuple[Input, ...]
    opened: Mapping[str, Any]
    components: Mapping[str, Resolved]


def fill(
    graph: Graph,
    owner: Resolved,
    at: Setting,
    granted: Mapping[str, Input],
    seed: int,
    suspect: Suspect | None = None,
    grants: Mapping[str, Input] | None = None,
) -> Filled:
    """Lay out the parts of `owner`, which is granted `granted` and works on `suspect`.

    Raises PluginError where a part asks for more than its owner has.
    """
    inputs: list[Input] = []
    opened: dict[str, Any] = {}
    components: dict[str, Resolved] = {}
    for name, used in owner.uses.items():
        opened[name] = {"kind": used.kind, "component": used.body}
        role = f"part.{name}"
        if used.kind == "dataset":
            inputs.append(Input(role, graph.data(used).key, ("train.safetensors",)))
        elif used.kind == "model":
            components[role] = used
        elif used.kind == "part":
            stage = _part(graph, used, owner, at, granted, seed, suspect)
            inputs.append(Input(role, stage.key, DEFENDED))
        elif used.kind == "defense" and suspect is not None and grants is not None:
            _check(used, owner, owner.needs)
            mine = {need: grant for need, grant in grants.items() if need in used.needs}
            made = graph.defend(at, used, mine, suspect, seed)
            inputs.append(Input(role, made.stage.key, DEFENDED))
            opened[name]["structure"] = made.structure
        else:
            raise PluginError(
                f"{owner.kind} {owner.name}: a {used.kind} cannot fill its parameter {name!r}"
            )
    return Filled(tuple(inputs), opened, components)


def _part(
    graph: Graph,
    part: Resolved,
    owner: Resolved,
    at: Setting,
    granted: Mapping[str, Input],
    seed: int,
    suspect: Suspect | None,
) -> Stage:
    """The stage of a part, made from at most what its owner is granted."""
    _check(part, owner, {"model", *granted})
    taken = {need: granted[need] for need in part.needs if need in granted}
    components = {"component": part}
    payload: dict[str, Any] = {"granted": sorted(part.needs), "model": None}
    task = at.task
    if "model" in part.needs:
        components["model"] = at.model
        payload.update(recipe=at.recipe, model=at.model.body)
    if not part.needs:
        # Made from nothing but its parameters: one for all datasets of this shape.
        task = Task("", task.classes, task.height, task.width, task.channels, 0)
    if suspect is not None:
        payload["structure"] = suspect.structure
    filled = fill(graph, part, at, granted, seed, suspect)
    return graph.add(
        "part",
        f"part {part.name} of {owner.name}",
        components={**components, **filled.components},
        inputs=(*taken.values(), *filled.inputs),
        choices={"task": asdict(task), "recipe": payload.get("recipe")},
        **graph.seeded("part", part, seed, task, {**payload, "parts": filled.opened}),
    )


def _check(used: Resolved, owner: Resolved, has: Collection[str]) -> None:
    if missing := sorted(set(used.needs) - set(has)):
        raise PluginError(
            f"{used.kind} {used.name!r} needs {', '.join(missing)}, which {owner.kind} {owner.name!r} is not granted"
        )


def needs_model(component: Resolved) -> bool:
    """Whether it, or a component that fills its parameters, works with the cell's architecture."""
    return "model" in component.needs or any(map(needs_model, component.uses.values()))
