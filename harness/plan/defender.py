"""The defender's side: clean images, and one defense on one suspect."""

from __future__ import annotations

from collections.abc import Mapping

from harness.access.context import Coordinates
from harness.components import DatasetFacts, DefenseFacts
from harness.plan.attacker import export, victim
from harness.plan.graph import Graph, Setting, Suspect
from harness.plan.parts import Owner, fill
from harness.registry.resolved import Resolved
from harness.stages.artefacts import DEFENDED, TRAINING, TRUTH
from harness.stages.payloads import DefendPayload, GrantPayload, Structure
from harness.stages.stage import Input, Stage


def grant(
    graph: Graph,
    source: Resolved[DatasetFacts],
    split: str,
    count: int,
    labelled: bool,
    seed: int,
) -> Stage:
    """Lay out `count` images of a split, in the order of the defense seed."""

    def lay_out() -> Stage:
        kind = "labelled" if labelled else "unlabelled"
        return graph.add(
            graph.titles.seeded(f"{count} {kind} of {graph.label_of(source)}", seed),
            GrantPayload(Coordinates(seed, source.name, "grant", ""), split, count, labelled),
            components=[],
            inputs=(graph.split(source, split, "data"),),
            guarded=False,
        )

    return graph.once(("grant", id(source), split, count, labelled, seed), lay_out)


def oracle(graph: Graph, at: Setting) -> tuple[Input, Input]:
    """Return the truth about a victim and the test images as inputs."""
    truth = Input("truth", victim(graph, at).stage.key, TRUTH)
    return truth, graph.split(at.data, "test", "test")


def defend(
    graph: Graph,
    at: Setting,
    defense: Resolved[DefenseFacts],
    title: str,
    grants: Mapping[str, Input],
    suspect: Suspect,
    seed: int,
) -> Suspect:
    """Lay out one defense on one suspect; `grants` are its images (see `harness.plan.grants`)."""
    granted = tuple(sorted((need, item.key) for need, item in grants.items()))
    name = ("defend", *at.name, id(defense), granted, suspect.stage.key, seed)
    return graph.once(name, lambda: _defend(graph, at, defense, title, grants, suspect, seed))


def _defend(
    graph: Graph,
    at: Setting,
    defense: Resolved[DefenseFacts],
    title: str,
    grants: Mapping[str, Input],
    suspect: Suspect,
    seed: int,
) -> Suspect:
    offered = {**grants, "victim": Input("victim", suspect.stage.key, DEFENDED)}
    if "training-set" in defense.needs:
        offered["training-set"] = Input("training", export(graph, at).key, TRAINING)
    granted = {need: offered[need] for need in defense.needs if need != "oracle"}

    def defend_alike(used: Resolved[DefenseFacts], title_of_part: str) -> Suspect:
        shared = {need: item for need, item in grants.items() if need in used.needs}
        return defend(graph, at, used, title_of_part, shared, suspect, seed)

    # A defense that is not granted the victim starts from a fresh network of the cell, whatever
    # other defenses have made of theirs.
    structure = suspect.structure if "victim" in defense.needs else Structure(at.model.body)
    owner = Owner(defense, granted, title, seed, structure, defend_alike)
    filled = fill(graph, owner, at)
    inputs = list(granted.values())
    attack = None
    if "oracle" in defense.needs:
        inputs += oracle(graph, at)
        attack = at.attack.body
    inputs += filled.inputs
    defended_structure = structure
    if defense.facts.rebuilds:
        defended_structure = structure.rebuilt_by(defense.body)
    context = graph.context(
        "defend",
        defense,
        seed,
        at.task,
        model=at.model.body,
        recipe=at.recipe,
        parts=filled.opened,
    )
    payload = DefendPayload(
        component=defense.body,
        context=context,
        granted=tuple(sorted(defense.needs)),
        structure=structure,
        defended_structure=defended_structure,
        attack=attack,
    )
    stage = graph.add(
        graph.titles.seeded(title, at.victim_seed, seed),
        payload,
        components=[defense, at.model, *filled.components],
        inputs=inputs,
    )
    return Suspect(stage, defended_structure)
