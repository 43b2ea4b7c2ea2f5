"""The triggers that `bench preview` shows, and their stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.grid import Cell, Entry, Grid
from harness.outcomes import Outcome
from harness.plan.attacker import poison, victim
from harness.plan.binding import bind
from harness.plan.compatibility import objections, untrainable
from harness.plan.graph import Graph, Setting
from harness.plan.parts import needs_model
from harness.plan.plan import Plan
from harness.plan.titles import Titles
from harness.registry.resolve import Resolver
from harness.stages.artefacts import POISON, TRUTH, split_file
from harness.stages.payloads import PreviewPayload
from harness.stages.stage import Input, Stage
from harness.store.objects import Store


@dataclass
class Subject:
    """An attack on a dataset: the stage whose images are drawn, or why it is `skipped`.

    `lay_out` sets `stage` and `trained`: whether the trigger is that of a trained victim.
    """

    cell: Cell
    at: Setting
    skipped: str | None
    stage: Stage | None = None
    trained: bool = False

    @property
    def name(self) -> str:
        """Its title on the sheet."""
        return f"{self.cell.attack.label} on {self.cell.dataset.label}"

    @property
    def unfinished(self) -> bool:
        """True if training may change the trigger that the stage `poison` leaves."""
        facts = self.at.attack.facts
        return facts.training_controlled and facts.trains


def choose(read: Grid, cells: Sequence[Cell], resolver: Resolver) -> tuple[Graph, list[Subject]]:
    """Return every attack of `cells` on every dataset, each as in its first cell that makes sense,
    and a graph for their stages. Raises GridError.
    """
    candidates: dict[tuple[Entry, Entry], dict[Entry, Cell]] = {}
    for cell in cells:
        by_model = candidates.setdefault((cell.dataset, cell.attack), {})
        by_model.setdefault(cell.model, cell)
    firsts: list[Cell] = []
    for by_model in candidates.values():
        firsts += by_model.values()
    binding = bind(read, firsts, resolver.registry, resolver)
    graph = Graph(binding, resolver.sources.of, Titles(cells))
    against = objections(binding, firsts, resolver).victims
    subjects = []
    for by_model in candidates.values():
        group = list(by_model.values())
        reasons = [against.get((cell.dataset, cell.model, cell.attack)) for cell in group]
        first = reasons.index(None) if None in reasons else 0
        cell = group[first]
        at = graph.setting(cell)
        skipped = reasons[first]
        if skipped is None and not at.attack.facts.has_trigger:
            skipped = "it has no trigger"
        if skipped is None:
            skipped = untrainable(at, ())
        subjects.append(Subject(cell, at, skipped))
    return graph, subjects


def lay_out(graph: Graph, subjects: Sequence[Subject], store: Store, images: int) -> Plan:
    """Plan what it takes to show `images` of each subject at most, and give each its stage.

    No victim is trained for the sake of a picture: where an attack controls training, its trigger
    is that of its victim if the store has one, else as it is before training.
    """
    shown = [subject for subject in subjects if subject.skipped is None]
    unfinished = [subject for subject in shown if subject.unfinished]
    plan = Plan(graph.binding.grid, (), graph)
    plan.refresh(store, [victim(graph, subject.at).stage.key for subject in unfinished])
    for subject in unfinished:
        key = victim(graph, subject.at).stage.key
        subject.trained = plan.outcome[key] is Outcome.CACHED
    keys = []
    for subject in shown:
        subject.stage = _stage(graph, subject, images)
        keys.append(subject.stage.key)
    plan.refresh(store, keys)
    # A victim that turns out to be damaged is not made again: the next preview shows the trigger
    # before training.
    plan.stages = {key: stage for key, stage in plan.stages.items() if stage.kind != "victim"}
    return plan


def _stage(graph: Graph, subject: Subject, images: int) -> Stage:
    at = subject.at
    if subject.trained:
        truth = Input("truth", victim(graph, at).stage.key, TRUTH)
    else:
        truth = Input("truth", poison(graph, at).key, POISON)
    splits = [split_file("test")]
    # An attack that controls training has no poisoned set to show beside its originals.
    if not at.attack.facts.training_controlled:
        splits.append(split_file("train"))
    # No replicate: the same images for every attack on a dataset.
    context = graph.context("preview", at.attack, None, at.task)
    return graph.add(
        graph.titles.seeded(at.attack_title, at.victim_seed),
        PreviewPayload(at.attack.body, context, images),
        components=[at.attack],
        inputs=(truth, Input("data", graph.data(at.data).key, tuple(splits))),
    )


def panel_of(subject: Subject, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is drawn of a subject: title, notes and sections, and for machines where it comes
    from. `facts` are what the stage says of its images.
    """
    at = subject.at
    task = at.task
    assert subject.stage is not None
    model = ""
    if subject.trained or needs_model(at.attack):
        model = f", for {subject.cell.model.label}"
    channels = "1 channel" if task.channels == 1 else f"{task.channels} channels"
    size = f"{task.height}x{task.width}, {channels}"
    notes = [f"{at.attack.called}{model}, seed {at.victim_seed}; {size}; {facts['label_map']}"]
    if subject.trained:
        notes.append("the trigger as it is after training, which this attack controls")
    elif subject.unfinished:
        notes.append(
            "BEFORE TRAINING: this attack controls training, which may still change the trigger"
        )
    return {
        "title": subject.name,
        "notes": notes + facts["notes"],
        "stage": subject.stage.key,
        "attack": at.attack.called,
        "dataset": at.data.called,
        "sections": facts["sections"],
    }
