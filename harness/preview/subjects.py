"""The triggers and parts that `bench preview` shows, and their stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.components import PartFacts
from harness.grid import Cell, Entry, Grid
from harness.outcomes import Outcome
from harness.plan.attacker import poison, victim
from harness.plan.binding import bind
from harness.plan.compatibility import objections, untrainable
from harness.plan.graph import Graph, Setting
from harness.plan.parts import Owner, needs_model, part_stage
from harness.plan.plan import Plan
from harness.plan.titles import Titles
from harness.registry.resolve import Resolver
from harness.registry.resolved import Resolved
from harness.stages.artefacts import DEFENDED, POISON, TRUTH, split_file
from harness.stages.payloads import PreviewPayload, ShowPayload
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


@dataclass
class PartSubject:
    """A part that shows something, beside images of a dataset: the stage that makes it.

    `lay_out` sets `stage`, whose images are drawn.
    """

    at: Setting
    part: Resolved[PartFacts]
    made: Stage
    skipped: str | None = None
    stage: Stage | None = None

    @property
    def name(self) -> str:
        """Its title on the sheet."""
        return f"{self.part.called} on {self.at.dataset.label}"


AnySubject = Subject | PartSubject


def choose(read: Grid, cells: Sequence[Cell], resolver: Resolver) -> tuple[Graph, list[AnySubject]]:
    """Return every attack of `cells` on every dataset, each as in its first cell that makes sense,
    then every part that shows something, and a graph for their stages. Raises GridError.
    """
    candidates: dict[tuple[Entry, Entry], dict[Entry, Cell]] = {}
    for cell in cells:
        by_model = candidates.setdefault((cell.dataset, cell.attack), {})
        by_model.setdefault(cell.model, cell)
    firsts: list[Cell] = []
    for by_model in candidates.values():
        firsts += by_model.values()
    with_defense: dict[tuple[Entry, Entry], Cell] = {}
    for cell in cells:
        with_defense.setdefault((cell.dataset, cell.defense), cell)
    others = [cell for cell in with_defense.values() if cell not in firsts]
    binding = bind(read, [*firsts, *others], resolver.registry, resolver)
    graph = Graph(binding, resolver.sources.of, Titles(cells))
    against = objections(binding, firsts, resolver).victims
    subjects: list[AnySubject] = []
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
    subjects += _parts(graph, list(with_defense.values()))
    return graph, subjects


def _parts(graph: Graph, cells: Sequence[Cell]) -> list[PartSubject]:
    """Return the parts of defenses and metrics that show something and are made from nothing but
    their parameters, each once.
    """
    found: dict[tuple[str, int], PartSubject] = {}
    for cell in cells:
        at = graph.setting(cell)
        for entry in (*cell.chain, *graph.binding.grid.metrics):
            owner = graph.binding.component(entry, cell.dataset)
            for name, used in owner.uses.items():
                if used.kind != "part" or not used.facts.shown or used.needs:
                    continue
                made = part_stage(graph, used, name, Owner(owner, {}, entry.label, 0), at)
                found.setdefault((made.key, id(at.data)), PartSubject(at, used, made))
    return list(found.values())


def lay_out(graph: Graph, subjects: Sequence[AnySubject], store: Store, images: int) -> Plan:
    """Plan what it takes to show `images` of each subject at most, and give each its stage.

    No victim is trained for the sake of a picture: where an attack controls training, its trigger
    is that of its victim if the store has one, else as it is before training.
    """
    shown = [subject for subject in subjects if subject.skipped is None]
    attacks = [subject for subject in shown if isinstance(subject, Subject)]
    unfinished = [subject for subject in attacks if subject.unfinished]
    plan = Plan(graph.binding.grid, (), graph)
    plan.refresh(store, [victim(graph, subject.at).stage.key for subject in unfinished])
    for subject in unfinished:
        key = victim(graph, subject.at).stage.key
        subject.trained = plan.outcome[key] is Outcome.CACHED
    keys = []
    for drawn in shown:
        if isinstance(drawn, Subject):
            drawn.stage = _stage(graph, drawn, images)
        else:
            drawn.stage = _show(graph, drawn, images)
        keys.append(drawn.stage.key)
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


def _show(graph: Graph, subject: PartSubject, images: int) -> Stage:
    at = subject.at
    context = graph.context("show", subject.part, None, at.task)
    return graph.add(
        subject.made.title,
        ShowPayload(subject.part.body, context, images),
        components=[subject.part],
        inputs=(
            Input("part", subject.made.key, DEFENDED),
            Input("data", graph.data(at.data).key, (split_file("test"),)),
        ),
    )


def panel_of(subject: AnySubject, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is drawn of a subject: title, notes and sections, and for machines where it comes
    from. `facts` are what the stage says of its images.
    """
    at = subject.at
    task = at.task
    assert subject.stage is not None
    if isinstance(subject, PartSubject):
        return {
            "title": subject.name,
            "notes": facts["notes"],
            "stage": subject.stage.key,
            "part": subject.part.called,
            "dataset": at.data.called,
            "sections": facts["sections"],
        }
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
