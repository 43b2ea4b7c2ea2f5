"""The stages of what fills parameters that are components, as the owner's process opens them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from harness.components import Task
from harness.errors import PluginError
from harness.plan.graph import Graph, Setting, Suspect
from harness.plan.titles import SEPARATOR
from harness.registry.resolved import Resolved
from harness.stages.artefacts import DEFENDED
from harness.stages.payloads import Filling, PartPayload, Structure
from harness.stages.stage import Input, Stage


@dataclass(frozen=True)
class Owner:
    """A component with parts, and what it can pass on to them.

    `granted` has its inputs by their names in `needs`; `title` and `seed` are those of its stage;
    `structure` is that of the suspect it works on; `defend` lays out another defense of the same
    suspect with the same grants.
    """

    component: Resolved
    granted: Mapping[str, Input]
    title: str
    seed: int
    structure: Structure | None = None
    defend: Callable[[Resolved, str], Suspect] | None = None


@dataclass(frozen=True)
class Filled:
    """The parts of one owner: upstream files, what its body opens, and those that enter the key by
    themselves.

    A model that fills a parameter is built afresh where it is used, so it has no stage and is in
    the key by itself.
    """

    inputs: tuple[Input, ...]
    opened: Mapping[str, Filling]
    components: tuple[Resolved, ...]


NOTHING = Filled((), {}, ())
"""The parts of a component that has none."""


def fill(graph: Graph, owner: Owner, at: Setting) -> Filled:
    """Lay out the parts of `owner`.

    Raises PluginError where a part asks for more than its owner has.
    """
    if not owner.component.uses:
        return NOTHING
    inputs: list[Input] = []
    opened: dict[str, Filling] = {}
    components: list[Resolved] = []
    for name, used in owner.component.uses.items():
        role = f"part.{name}"
        structure = None
        if used.kind == "dataset":
            inputs.append(graph.split(used, "train", role))
        elif used.kind == "model":
            components.append(used)
        elif used.kind == "part":
            stage = part_stage(graph, used, name, owner, at)
            inputs.append(Input(role, stage.key, DEFENDED))
        elif used.kind == "defense" and owner.defend is not None:
            _check(used, owner.component, owner.component.needs)
            defended = owner.defend(used, _title(owner, name))
            structure = defended.structure
            inputs.append(Input(role, defended.stage.key, DEFENDED))
        else:
            raise PluginError(
                f"{owner.component.kind} {owner.component.name}: "
                f"a {used.kind} cannot fill its parameter {name!r}"
            )
        opened[name] = Filling(used.body, structure)
    return Filled(tuple(inputs), opened, tuple(components))


def part_stage(graph: Graph, part: Resolved, name: str, owner: Owner, at: Setting) -> Stage:
    """Lay out the stage of a part that fills the parameter `name` of its owner, made from at most
    what that is granted. Raises PluginError where the part asks for more.
    """
    _check(part, owner.component, {"model", *owner.granted})
    taken = [owner.granted[need] for need in part.needs if need in owner.granted]
    components = [part]
    model = None
    recipe = None
    if "model" in part.needs:
        components.append(at.model)
        model = at.model.body
        recipe = at.recipe
    task = at.task
    numerics = at.numerics
    if not part.needs:
        # Made from nothing but its parameters: one for all datasets of this shape.
        numerics = {}
        task = Task("", task.classes, task.height, task.width, task.channels, 0)
    title = _title(owner, name)
    if owner.title == at.attack_title and needs_model(part):
        # One for each model, of an owner that knows none.
        title = f"{at.title}{SEPARATOR}{name}"
    # Whatever fills a part's own parameters is granted what the owner is.
    inner = Owner(part, owner.granted, title, owner.seed, owner.structure)
    filled = fill(graph, inner, at)
    context = graph.context(
        "part",
        part,
        owner.seed,
        task,
        model=model,
        recipe=recipe,
        parts=filled.opened,
        numerics=numerics,
    )
    granted = tuple(sorted(part.needs))
    structure = owner.structure if "victim" in part.needs else None
    return graph.add(
        graph.titles.seeded(title, owner.seed) if part.seeded else title,
        PartPayload(part.body, context, granted, structure),
        components=[*components, *filled.components],
        inputs=(*taken, *filled.inputs),
    )


def _title(owner: Owner, name: str) -> str:
    return f"{owner.title}{SEPARATOR}{name}"


def _check(used: Resolved, owner: Resolved, has: Collection[str]) -> None:
    missing = sorted(set(used.needs) - set(has))
    if missing:
        raise PluginError(
            f"{used.kind} {used.name!r} needs {', '.join(missing)}, "
            f"which {owner.kind} {owner.name!r} is not granted"
        )


def needs_model(component: Resolved) -> bool:
    """Tell whether it, or a component that fills its parameters, works with the cell's
    architecture.
    """
    if "model" in component.needs:
        return True
    return any(map(needs_model, component.uses.values()))
