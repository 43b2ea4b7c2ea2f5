"""Stage `recheck`: a model's answers to the sample of a stream, in a process that knows no other.

Like `evaluate` it gets a model and images, and nothing from which it could tell what it is asked.
Whether both got the same answers is found out where they are put together (see `independence`).

Leaves `again.safetensors`: `logits`, float32 (n, classes), for each image of the sample.
"""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import save_file

from harness.learn.evaluation import logits_of, together
from harness.stages.artefacts import AGAIN_FILE, SAMPLE_FILE
from harness.stages.independence import AT_LEAST, GROUP, IN_PAIRS
from harness.stages.job import Job
from harness.stages.materials import judged_model, seed_everything
from harness.stages.payloads import RecheckPayload


def run(job: Job[RecheckPayload]) -> None:
    """Ask the model about the first images two at a time, and about the others in groups."""
    payload = job.payload
    seed_everything(payload.coordinates)
    model = judged_model(job.inputs, payload.structure, payload.task, job.device)
    sample = torch.from_numpy(np.load(job.inputs / "sample" / SAMPLE_FILE, mmap_mode="c"))
    group = min(GROUP, max(2, together(sample, job.device)))
    # Some at a time: a sixteenth of a stream may be larger than memory too.
    parts = [(sample[:IN_PAIRS], 2)]
    for part in torch.split(sample[IN_PAIRS:], AT_LEAST):
        parts.append((part, group))
    logits = []
    for images, batch in parts:
        classes = payload.task.classes
        logits.append(logits_of(model, images, device=job.device, batch=batch, classes=classes))
    job.record["images"] = len(sample)
    save_file({"logits": torch.cat(logits)}, job.out / AGAIN_FILE)
