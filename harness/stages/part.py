"""Stage `part`: a component that fills another's parameter (a robust model, a decoder).

Leaves `model.safetensors`, the state of the module that `Part.build` structures, and `result.json`:
what it cost.
"""

from __future__ import annotations

import json
import time

from harness.stages import Job


def run(job: Job) -> None:
    """Make, check, save."""
    from torch import nn

    from harness.access.granted import PartAccess
    from harness.components import Part, load_component
    from harness.learn.weights import load_state, save_state
    from harness.stages.defend import openers, spent
    from harness.stages.materials import (
        RESULT,
        open_images,
        part_model,
        seed_everything,
        stage_context,
    )

    part = load_component(job.payload["component"])
    assert isinstance(part, Part)
    context = stage_context(job)
    seed_everything(context.coordinates)
    files = {
        **openers(job, context.task),
        "train": lambda: open_images(job.inputs / "data" / "train.safetensors"),
    }
    access = PartAccess(context, frozenset(job.payload["granted"]), files)
    started = time.perf_counter()
    module = part.make(access)
    record = spent(job, access, time.perf_counter() - started)
    if not isinstance(module, nn.Module):
        raise TypeError(f"`make` returned {type(module).__name__}; a torch module is wanted")
    save_state(module, job.out / "model.safetensors")
    load_state(
        part.build(context.task, part_model(part, job.payload, context.task)),
        job.out / "model.safetensors",
    )
    (job.out / RESULT).write_text(json.dumps({"record": record}))
    job.record.update(access.account())
