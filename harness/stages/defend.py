"""Stage `defend`: a defense works on what it is granted.

Leaves `result.json` (verdict and record, which has the seconds and images that it took, its parts
and what it is `on` included) and, where there is a defended model, `model.safetensors`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from harness.stages import Job
from harness.stages.materials import RESULT

if TYPE_CHECKING:
    from harness.access.granted import Access, Workbench
    from harness.components import Result, Task

FILES = ("model.safetensors", "result.json")


def openers(job: Job, task: Task) -> Mapping[str, Callable[[], Any]]:
    """How each granted thing is opened, by its name in `needs`."""
    from harness.stages.materials import images_of, open_images, open_model, open_oracle

    inputs, payload = job.inputs, job.payload

    def victim() -> Any:
        return open_model(
            inputs / "victim" / "model.safetensors", payload["structure"], task, job.device
        )

    def oracle() -> Any:
        return open_oracle(
            inputs / "truth",
            inputs / "test" / "test.safetensors",
            payload["attack"],
            task,
            job.device,
        )

    return {
        "victim": victim,
        "clean-labelled": lambda: images_of(inputs / "clean", task),
        "clean-unlabelled": lambda: images_of(inputs / "unlabelled", task),
        "training-set": lambda: open_images(inputs / "training" / "training.safetensors"),
        "oracle": oracle,
    }


def run(job: Job) -> None:
    """Defend, check what came back, prove the round trip, save."""
    from harness.access.granted import Access
    from harness.components import Defense, load_component
    from harness.stages.materials import seed_everything, stage_context

    defense = load_component(job.payload["component"])
    assert isinstance(defense, Defense)
    context = stage_context(job)
    seed_everything(context.coordinates)
    access = Access(context, frozenset(job.payload["granted"]), openers(job, context.task))
    started = time.perf_counter()
    result = as_result(defense.defend(access), access)
    seconds = time.perf_counter() - started
    written = verdict(result, access)
    if result.model is not None:
        _save_model(job, result.model.eval(), context.task)
    record = {**written["record"], **spent(job, access, seconds)}
    (job.out / RESULT).write_text(json.dumps({**written, "record": record}))
    job.record.update(access.account())


def spent(job: Job, access: Workbench, seconds: float) -> dict[str, float]:
    """Seconds and images of this stage and of what it stands on on the defender's side: its parts,
    its `on`.

    Each artefact's own record has its upstream in it already.
    """
    records = [
        json.loads(path.read_text())["record"] for path in sorted(job.inputs.glob(f"*/{RESULT}"))
    ]
    own = {"seconds": seconds, "images": float(access.images_processed)}
    return {name: value + sum(record[name] for record in records) for name, value in own.items()}


def as_result(returned: object, access: Access) -> Result:
    """What `defend` returned, as a `Result`. Raises TypeError or ValueError where it is neither
    model nor verdict.
    """
    from torch import nn

    from harness.components import Result

    result = Result(model=returned) if isinstance(returned, nn.Module) else returned
    if not isinstance(result, Result):
        raise TypeError(
            f"`defend` returned {type(returned).__name__}; a torch module or a Result is wanted"
        )
    if (
        result.model is None
        and result.flagged is None
        and result.score is None
        and not len(result.suspects)
    ):
        raise ValueError(
            "`defend` returned neither a model nor a verdict (flagged, score or suspects)"
        )
    if result.model is not None and not isinstance(result.model, nn.Module):
        raise TypeError(
            f"the result's model is {type(result.model).__name__}; a torch module is wanted"
        )
    return result


def verdict(result: Result, access: Access) -> dict[str, Any]:
    """The result's numbers, checked, as JSON."""
    from harness.stages.materials import finite, whole

    if result.flagged is not None and not isinstance(result.flagged, bool):
        raise TypeError(
            f"the result's flagged is {result.flagged!r}; True, False or None is wanted"
        )
    suspects = list(result.suspects)
    training = len(access.training_set()) if suspects else 0
    return {
        "flagged": result.flagged,
        "score": None
        if result.score is None
        else finite({"score": result.score}, "the result")["score"],
        "targets": whole(result.targets, access.task.classes, "the result's targets"),
        "suspects": whole(suspects, training, "the result's suspects"),
        "record": finite({**access.record, **result.record}, "the result's record"),
    }


def _save_model(job: Job, model: Any, task: Task) -> None:
    """Save the defended state and prove that it answers alike in the structure `rebuild` makes."""
    from harness.learn.evaluation import check_outputs
    from harness.learn.weights import save_state
    from harness.stages.victim import prove_round_trip

    check_outputs(model, task)
    save_state(model, job.out / "model.safetensors")
    prove_round_trip(job, model, task, job.payload["defended_structure"])
