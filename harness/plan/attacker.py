"""The attacker's side: the poisoned set, the victim, and the training set as it is handed over."""

from __future__ import annotations

from typing import Any

from harness.plan.graph import Graph, Setting, Suspect
from harness.plan.parts import Filled, Owner, fill, needs_model
from harness.registry.resolved import Resolved
from harness.stages.artefacts import POISON, TRUTH
from harness.stages.payloads import (
    ContextSpec,
    ExportPayload,
    PoisonPayload,
    Structure,
    VictimPayload,
)
from harness.stages.stage import Input, Stage


def poison(graph: Graph, at: Setting) -> Stage:
    """Lay out trigger and poisoned set; they know the model only where the attack says so."""
    if needs_model(at.attack):
        name: tuple[Any, ...] = ("poison", *at.name)
    else:
        numerics = tuple(at.numerics.items())
        name = ("poison", id(at.data), id(at.attack), at.victim_seed, numerics)
    return graph.once(name, lambda: _poison(graph, at))


def _poison(graph: Graph, at: Setting) -> Stage:
    filled = _fill(graph, at)
    context = _context(graph, "poison", at, filled)
    return graph.add(
        _title(graph, at),
        PoisonPayload(at.attack.body, context),
        components=_components(at, filled),
        inputs=(_train(graph, at), *filled.inputs),
    )


def victim(graph: Graph, at: Setting) -> Suspect:
    """Lay out the backdoored model (the clean one, for the attack that is none)."""
    return graph.once(("victim", *at.name), lambda: _victim(graph, at))


def _victim(graph: Graph, at: Setting) -> Suspect:
    filled = _fill(graph, at)
    inputs = [_train(graph, at)]
    if at.attack.facts.has_trigger:
        inputs.append(Input("poison", poison(graph, at).key, POISON))
    inputs += filled.inputs
    structure = Structure(at.model.body)
    context = graph.context(
        "victim",
        at.attack,
        at.victim_seed,
        at.task,
        model=at.model.body,
        recipe=at.recipe,
        parts=filled.opened,
    )
    stage = graph.add(
        graph.titles.seeded(at.title, at.victim_seed),
        VictimPayload(at.attack.body, context, structure),
        components=[at.attack, at.model, *filled.components],
        inputs=inputs,
    )
    return Suspect(stage, structure)


def export(graph: Graph, at: Setting) -> Stage:
    """Lay out the training set as in-training defenses get it."""
    return graph.once(("export", *at.name), lambda: _export(graph, at))


def _export(graph: Graph, at: Setting) -> Stage:
    inputs = [_train(graph, at)]
    if at.attack.facts.training_controlled:
        inputs.append(Input("truth", victim(graph, at).stage.key, TRUTH))
    elif at.attack.facts.has_trigger:
        inputs.append(Input("poison", poison(graph, at).key, POISON))
    filled = _fill(graph, at)
    inputs += filled.inputs
    context = _context(graph, "export", at, filled)
    return graph.add(
        _title(graph, at),
        ExportPayload(at.attack.body, context),
        components=_components(at, filled),
        inputs=inputs,
    )


def _fill(graph: Graph, at: Setting) -> Filled:
    granted = {"train": _train(graph, at)}
    return fill(graph, Owner(at.attack, granted, at.attack_title, at.victim_seed), at)


def _train(graph: Graph, at: Setting) -> Input:
    return graph.split(at.data, "train", "data")


def _title(graph: Graph, at: Setting) -> str:
    title = at.title if needs_model(at.attack) else at.attack_title
    return graph.titles.seeded(title, at.victim_seed)


def _components(at: Setting, filled: Filled) -> list[Resolved]:
    """Return the components of a stage that knows the model only where the attack asks for it."""
    components = [at.attack, *filled.components]
    if needs_model(at.attack):
        components.append(at.model)
    return components


def _context(graph: Graph, kind: str, at: Setting, filled: Filled) -> ContextSpec:
    """Return the context of a stage that knows the model only where the attack asks for it."""
    with_model = needs_model(at.attack)
    return graph.context(
        kind,
        at.attack,
        at.victim_seed,
        at.task,
        model=at.model.body if with_model else None,
        recipe=at.recipe if with_model else None,
        parts=filled.opened,
        numerics=at.numerics,
    )
