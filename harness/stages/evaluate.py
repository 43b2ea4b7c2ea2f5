"""Stage `evaluate`: a model's answers to a stream of test images, one for each.

The model's code is a plugin's, and its process gets images only: no labels, no trigger, and clean
and triggered images in one order that tells nothing (see `stamp`). Another process asks the model
again about some of them (see `recheck`), and a third puts answers and truth together (see
`harness.stages.answers`).

Leaves `answers.safetensors`: `logits`, float32 (n, classes), for each place of the stream. A new
metric on them needs no second evaluation.
"""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import save_file

from harness.learn.evaluation import logits_of, together
from harness.stages.artefacts import ANSWERS_FILE, STREAM_FILE
from harness.stages.job import Job
from harness.stages.materials import judged_model, seed_everything
from harness.stages.payloads import EvaluatePayload


def run(job: Job[EvaluatePayload]) -> None:
    """Take the model's answers."""
    payload = job.payload
    seed_everything(payload.coordinates)
    model = judged_model(job.inputs, payload.structure, payload.task, job.device)
    # Mapped, not read: a stream may be larger than memory. Copy-on-write: nobody can change it.
    stream = torch.from_numpy(np.load(job.inputs / "stream" / STREAM_FILE, mmap_mode="c"))
    logits = logits_of(
        model,
        stream,
        device=job.device,
        batch=together(stream, job.device),
        classes=payload.task.classes,
    )
    job.record["images"] = len(stream)
    save_file({"logits": logits}, job.out / ANSWERS_FILE)
