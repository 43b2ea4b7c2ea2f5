"""Judging a model: its predictions, metrics on predictions, and metrics on the model itself."""

from __future__ import annotations

from collections.abc import Sequence

from harness.components import MetricFacts
from harness.plan.attacker import export
from harness.plan.defender import oracle
from harness.plan.graph import Graph, Setting, Suspect
from harness.plan.parts import Owner, fill
from harness.plan.titles import SEPARATOR
from harness.registry.resolved import Resolved
from harness.stages.artefacts import (
    MEASURED,
    MODEL,
    POISONED_FILE,
    PREDICTIONS,
    RESULT,
    TRAINING_FILE,
)
from harness.stages.payloads import EvaluatePayload, MeasurePayload, ScorePayload
from harness.stages.stage import Input, Stage


def evaluate(graph: Graph, at: Setting, suspect: Suspect) -> Stage:
    """Lay out the predictions of a model."""
    name = ("evaluate", id(at.data), id(at.attack), suspect.stage.key)
    return graph.once(name, lambda: _evaluate(graph, at, suspect))


def _evaluate(graph: Graph, at: Setting, suspect: Suspect) -> Stage:
    context = graph.context("evaluate", at.attack, None, at.task)
    return graph.add(
        suspect.stage.title,
        EvaluatePayload(at.attack.body, context, suspect.structure),
        components=[at.attack],
        inputs=(Input("model", suspect.stage.key, MODEL), *oracle(graph, at)),
    )


def score(
    graph: Graph,
    evaluated: Stage,
    defended: Stage | None,
    metrics: Sequence[Resolved[MetricFacts]],
) -> Stage:
    """Lay out metrics of one distribution on predictions; `defended` is the stage whose record they
    may read.
    """
    ordered = sorted(metrics, key=lambda metric: metric.called)
    names = tuple(metric.called for metric in ordered)
    defended_key = None if defended is None else defended.key
    name = ("score", evaluated.key, defended_key, names, tuple(map(id, ordered)))

    def lay_out() -> Stage:
        inputs = [Input("predictions", evaluated.key, PREDICTIONS)]
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
    needs = metric.needs
    inputs = [*filled.inputs]
    if "model" in needs:
        inputs.append(Input("model", suspect.stage.key, MODEL))
    if "predictions" in needs:
        predictions = evaluate(graph, at, suspect)
        inputs.append(Input("predictions", predictions.key, PREDICTIONS))
    if "trigger" in needs:
        inputs += oracle(graph, at)
    elif "test" in needs:
        inputs.append(graph.split(at.data, "test", "test"))
    if "validation" in needs:
        inputs.append(graph.split(at.data, "validation", "validation"))
    if "training-set" in needs:
        files = (TRAINING_FILE, POISONED_FILE)
        inputs.append(Input("training", export(graph, at).key, files))
    if defended is not None and ("result" in needs or "predictions" in needs):
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
    attack = at.attack.body if "trigger" in needs else None
    return graph.add(
        title,
        MeasurePayload(metric.body, context, metric.called, suspect.structure, attack),
        components=[metric, at.model, *filled.components],
        inputs=inputs,
    )
