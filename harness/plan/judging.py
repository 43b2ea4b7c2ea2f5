"""Judging a model: its predictions, metrics on predictions, and metrics on the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.access.context import Coordinates
from harness.components import MetricFacts
from harness.plan.attacker import export, victim
from harness.plan.defender import grant, oracle
from harness.plan.graph import Graph, Setting, Suspect
from harness.plan.parts import Owner, fill
from harness.plan.titles import SEPARATOR
from harness.registry.resolved import Resolved
from harness.stages.artefacts import (
    AGAIN,
    ANSWERS,
    IMAGES,
    MEASURED,
    MODEL,
    PLACES,
    POISONED_FILE,
    RESULT,
    SAMPLE,
    STREAM,
    TRAINING,
    TRUTH,
)
from harness.stages.payloads import (
    EvaluatePayload,
    MeasurePayload,
    RecheckPayload,
    ScorePayload,
    StampPayload,
)
from harness.stages.stage import Input, Stage


@dataclass(frozen=True)
class Answered:
    """A stream, a model's answers to it, and those that another process got to a sample of it."""

    stream: Stage
    evaluated: Stage
    rechecked: Stage

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Answers and truth, from which predictions are put together."""
        return (
            Input("answers", self.evaluated.key, ANSWERS),
            Input("again", self.rechecked.key, AGAIN),
            Input("places", self.stream.key, PLACES),
        )


def stamp(graph: Graph, at: Setting) -> Stage:
    """Lay out the stream of a victim; without a trigger there is one for the whole dataset."""
    if at.attack.facts.has_trigger:
        return graph.once(("stamp", *at.name), lambda: _stamp(graph, at))
    return graph.once(("stamp", id(at.data)), lambda: _stamp(graph, at))


def _stamp(graph: Graph, at: Setting) -> Stage:
    test = graph.split(at.data, "test", "test")
    if not at.attack.facts.has_trigger:
        here = Coordinates(None, at.task.dataset, "stamp", "")
        payload = StampPayload(at.task, here, None)
        return graph.add(graph.label_of(at.data), payload, components=[], inputs=[test])
    made = victim(graph, at).stage
    here = Coordinates(None, at.task.dataset, "stamp", at.attack.name)
    return graph.add(
        made.title,
        StampPayload(at.task, here, at.attack.body),
        components=[at.attack],
        inputs=[test, Input("truth", made.key, TRUTH)],
    )


def evaluate(graph: Graph, at: Setting, suspect: Suspect) -> Answered:
    """Lay out the answers of a model."""
    stream = stamp(graph, at)
    name = ("evaluate", stream.key, suspect.stage.key)
    return graph.once(name, lambda: _evaluate(graph, at, suspect, stream))


def _evaluate(graph: Graph, at: Setting, suspect: Suspect, stream: Stage) -> Answered:
    title = suspect.stage.title
    model = Input("model", suspect.stage.key, MODEL)
    evaluated = graph.add(
        title,
        EvaluatePayload(
            at.task, Coordinates(None, at.task.dataset, "evaluate", ""), suspect.structure
        ),
        components=[],
        inputs=[model, Input("stream", stream.key, STREAM)],
    )
    rechecked = graph.add(
        title,
        RecheckPayload(
            at.task, Coordinates(None, at.task.dataset, "recheck", ""), suspect.structure
        ),
        components=[],
        inputs=[model, Input("sample", stream.key, SAMPLE)],
    )
    return Answered(stream, evaluated, rechecked)


def score(
    graph: Graph,
    answered: Answered,
    defended: Stage | None,
    metrics: Sequence[Resolved[MetricFacts]],
) -> Stage:
    """Lay out metrics of one distribution on predictions; `defended` is the stage whose record they
    may read.
    """
    ordered = sorted(metrics, key=lambda metric: metric.called)
    names = tuple(metric.called for metric in ordered)
    defended_key = None if defended is None else defended.key
    evaluated = answered.evaluated
    name = ("score", evaluated.key, defended_key, names, tuple(map(id, ordered)))

    def lay_out() -> Stage:
        inputs = [*answered.inputs]
        if defended is not None:
            inputs.append(Input("result", defended.key, RESULT))
        return graph.add(
            evaluated.title,
            ScorePayload({metric.called: metric.body for metric in ordered}),
            components=ordered,
            inputs=inputs,
        )

    return graph.once(name, lay_out)


def measure(
    graph: Graph,
    at: Setting,
    suspect: Suspect,
    defended: Stage | None,
    metric: Resolved[MetricFacts],
    label: str,
    reference: Stage | None,
) -> Stage:
    """Lay out a metric with the model or data in hand; `label` is its label in tables, `reference`
    the same stage on the reference model.
    """
    title = f"{suspect.stage.title}{SEPARATOR}{label}"
    owner = Owner(metric, {}, title, at.victim_seed, suspect.structure)
    filled = fill(graph, owner, at)
    inputs = [*filled.inputs, *_data_inputs(graph, at, metric)]
    if "model" in metric.needs:
        inputs.append(Input("model", suspect.stage.key, MODEL))
    if "predictions" in metric.needs:
        inputs += evaluate(graph, at, suspect).inputs
    reads_result = "result" in metric.needs or "predictions" in metric.needs
    if defended is not None and reads_result:
        inputs.append(Input("result", defended.key, RESULT))
    if reference is not None:
        inputs.append(Input("reference", reference.key, MEASURED))
    context = graph.context(
        "measure",
        metric,
        at.victim_seed,
        at.task,
        model=at.model.body,
        recipe=at.recipe,
        parts=filled.opened,
    )
    attack = at.attack.body if "trigger" in metric.needs else None
    return graph.add(
        title,
        MeasurePayload(metric.body, context, metric.called, suspect.structure, attack),
        components=[metric, at.model, *filled.components],
        inputs=inputs,
    )


def _data_inputs(graph: Graph, at: Setting, metric: Resolved[MetricFacts]) -> list[Input]:
    """Return the images, and what is known of them, that a metric asks for."""
    needs = metric.needs
    inputs: list[Input] = []
    if "trigger" in needs:
        inputs += oracle(graph, at)
    elif "test" in needs:
        inputs.append(graph.split(at.data, "test", "test"))
    if "validation" in needs:
        inputs.append(graph.split(at.data, "validation", "validation"))
    sizes = graph.binding.sizes(at.dataset)
    for split, count in (("test", sizes.test), ("validation", sizes.validation)):
        role = f"{split}-unlabelled"
        if role in needs:
            images = grant(graph, at.data, split, count, labelled=False, seed=0)
            inputs.append(Input(role, images.key, IMAGES))
    if "training-set" in needs:
        inputs.append(Input("training", export(graph, at).key, TRAINING))
    if "poisoned" in needs:
        inputs.append(Input("poisoned", export(graph, at).key, (POISONED_FILE,)))
    return inputs
