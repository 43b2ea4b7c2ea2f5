"""Stage `defend`: a defense works on what it is granted.

Leaves `result.json` (verdict and record, which has the seconds and images that it took, its parts
and what it is `on` included) and, where there is a defended model, `model.safetensors`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from torch import nn

from harness.access.granted import Access
from harness.access.workbench import Workbench
from harness.components import Defense, Result, Task, load_component
from harness.components.spec import ComponentSpec
from harness.errors import Incompatible
from harness.learn.evaluation import check_outputs
from harness.learn.images import ImageSet
from harness.learn.weights import save_state
from harness.stages.artefacts import MODEL_FILE, RESULT_FILE, TRAINING_FILE, split_file
from harness.stages.job import Job
from harness.stages.materials import (
    finite,
    granted_images,
    open_model,
    open_oracle,
    seed_everything,
    stage_context,
    whole,
)
from harness.stages.payloads import DefendPayload, Payload, Structure
from harness.stages.victim import prove_round_trip


def openers(
    job: Job[Payload], task: Task, structure: Structure | None, attack: ComponentSpec | None
) -> dict[str, Callable[[], Any]]:
    """Return a function for each thing that can be granted, by its name in `needs`, which opens it.

    `structure`: of the suspect, if there is one; `attack`: for the grant `oracle`, if it is given.
    """
    inputs = job.inputs

    def victim() -> nn.Module:
        assert structure is not None
        return open_model(inputs / "victim" / MODEL_FILE, structure, task, job.device)

    def oracle() -> Any:
        assert attack is not None
        test = inputs / "test" / split_file("test")
        return open_oracle(inputs / "truth", test, attack, task, job.device)

    return {
        "victim": victim,
        "clean-labelled": lambda: granted_images(inputs / "clean", task),
        "clean-unlabelled": lambda: granted_images(inputs / "unlabelled", task),
        "training-set": lambda: ImageSet.load(inputs / "training" / TRAINING_FILE),
        "oracle": oracle,
    }


def run(job: Job[DefendPayload]) -> None:
    """Defend, check what came back, prove the round trip, save."""
    payload = job.payload
    defense = load_component(payload.component)
    assert isinstance(defense, Defense)
    if "victim" in payload.granted and not (job.inputs / "victim" / MODEL_FILE).exists():
        raise Incompatible("the defense that it is on gave a verdict and no model")
    context = stage_context(job, payload.context)
    task = context.task
    seed_everything(context.coordinates)
    opened = openers(job, task, payload.structure, payload.attack)
    access = Access(context, frozenset(payload.granted), opened)
    started = time.perf_counter()
    result = as_result(defense.defend(access), access)
    seconds = time.perf_counter() - started
    written = verdict(result, access)
    if result.model is not None:
        model = result.model.eval()
        check_outputs(model, task)
        save_state(model, job.out / MODEL_FILE)
        prove_round_trip(job, model, task, payload.defended_structure)
    written["record"] |= spent(job, access, seconds)
    (job.out / RESULT_FILE).write_text(json.dumps(written))
    job.record.update(access.account())


def spent(job: Job[Payload], access: Workbench, seconds: float) -> dict[str, float]:
    """Add up seconds and images of this stage, earlier attempts that it goes on from included, and
    of what it stands on on the defender's side: its parts, its `on`.

    Each artefact's own record has its upstream in it already.
    """
    seconds += job.continuing.before.seconds
    total = {"seconds": seconds, "images": float(access.images_processed)}
    for path in sorted(job.inputs.glob(f"*/{RESULT_FILE}")):
        upstream = json.loads(path.read_text())["record"]
        for name in total:
            total[name] += upstream[name]
    return total


def as_result(returned: object, access: Access) -> Result:
    """Return what `defend` gave as a `Result`. Raises TypeError or ValueError where it is neither
    model nor verdict.
    """
    result = Result(model=returned) if isinstance(returned, nn.Module) else returned
    if not isinstance(result, Result):
        raise TypeError(
            f"`defend` returned {type(returned).__name__}; a torch module or a Result is expected"
        )
    has_verdict = result.flagged is not None or result.score is not None or len(result.suspects) > 0
    if result.model is None and not has_verdict:
        raise ValueError(
            "`defend` returned neither a model nor a verdict (flagged, score or suspects)"
        )
    if result.model is not None and not isinstance(result.model, nn.Module):
        raise TypeError(
            f"the result's model is {type(result.model).__name__}; a torch module is expected"
        )
    return result


def verdict(result: Result, access: Access) -> dict[str, Any]:
    """Return the result's numbers, checked, as JSON."""
    if result.flagged is not None and not isinstance(result.flagged, bool):
        raise TypeError(
            f"the result's flagged is {result.flagged!r}; True, False or None is expected"
        )
    score = None
    if result.score is not None:
        score = finite({"score": result.score}, "the result")["score"]
    suspects = list(result.suspects)
    training = len(access.training_set()) if suspects else 0
    return {
        "flagged": result.flagged,
        "score": score,
        "targets": whole(result.targets, access.task.classes, "the result's targets"),
        "suspects": whole(suspects, training, "the result's suspects"),
        "record": finite({**access.record, **result.record}, "the result's record"),
    }
