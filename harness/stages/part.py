"""Stage `part`: a component that fills another's parameter (a robust model, a decoder).

Leaves `model.safetensors`, the state of the module that `Part.build` structures, and `result.json`:
what it cost.
"""

from __future__ import annotations

import json
import time

from torch import nn

from harness.access.granted import PartAccess
from harness.components import Part, load_component
from harness.learn.images import ImageSet
from harness.learn.weights import load_state, save_state
from harness.stages.artefacts import MODEL_FILE, RESULT_FILE, split_file
from harness.stages.defend import openers, spent
from harness.stages.job import Job
from harness.stages.materials import part_model, seed_everything, stage_context
from harness.stages.payloads import PartPayload


def run(job: Job[PartPayload]) -> None:
    """Make, check, save."""
    payload = job.payload
    part = load_component(payload.component)
    assert isinstance(part, Part)
    context = stage_context(job, payload.context)
    seed_everything(context.coordinates)
    opened = openers(job, context.task, payload.structure, attack=None)
    opened["train"] = lambda: ImageSet.load(job.inputs / "data" / split_file("train"))
    access = PartAccess(context, frozenset(payload.granted), opened)
    started = time.perf_counter()
    module = part.make(access)
    record = spent(job, access, time.perf_counter() - started)
    if not isinstance(module, nn.Module):
        raise TypeError(f"`make` returned {type(module).__name__}; a torch module is expected")
    save_state(module, job.out / MODEL_FILE)
    # The structure that owners will build takes this state, or the stage fails here.
    again = part.build(context.task, part_model(part, payload.context.model, context.task))
    load_state(again, job.out / MODEL_FILE)
    (job.out / RESULT_FILE).write_text(json.dumps({"record": record}))
    job.record.update(access.account())
