"""Stage `evaluate`: a model's answers to a stream of test images, one for each.

The model's code is a plugin's, and its process gets images only: no labels, no trigger, and clean
and triggered images in one order that tells nothing (see `stamp`). Another process puts answers and
truth together (see `harness.stages.answers`).

Leaves `answers.safetensors`: for each place of the stream `answers`, int64 labels (n), and
`logits`, half precision (n, classes). A new metric on them needs no second evaluation.
"""

from __future__ import annotations

import secrets

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.errors import Incompatible
from harness.learn.evaluation import check_independence, halved, logits_of, together
from harness.stages.artefacts import ANSWERS_FILE, MODEL_FILE, STREAM_FILE
from harness.stages.job import Job
from harness.stages.materials import open_model, seed_everything
from harness.stages.payloads import EvaluatePayload

AGAIN = 16
"""One of so many images is asked a second time."""
AT_LEAST = 256
"""Images that are asked a second time at least, if there are so many."""
IN_PAIRS = 64
"""Images among them that are asked two at a time."""
GROUP = 32
"""Images of the others that are asked together; of large ones as many as go through at a time, but
two at least.
"""


def run(job: Job[EvaluatePayload]) -> None:
    """Take the model's answers, and make sure that they depend on the image alone."""
    if not (job.inputs / "model" / MODEL_FILE).exists():
        raise Incompatible("the defense gave a verdict and no model")
    seed_everything(job.payload.coordinates)
    # Mapped, not read: a stream may be larger than memory. Copy-on-write: nobody can change it.
    stream = torch.from_numpy(np.load(job.inputs / "stream" / STREAM_FILE, mmap_mode="c"))
    logits = _ask(job, _fresh(job), stream, together(stream, job.device))
    _ask_again(job, stream, logits)
    job.record["images"] = len(stream)
    answers = {"answers": logits.argmax(1), "logits": halved(logits)}
    save_file(answers, job.out / ANSWERS_FILE)


def _ask_again(job: Job[EvaluatePayload], stream: Tensor, logits: Tensor) -> None:
    """Raise NotIndependent unless a model that has seen nothing yet gives the same answers to some
    images in other company: in pairs, and then among images that got the same label.

    Which images are chosen nobody can know beforehand, and no number depends on it.
    """
    generator = torch.Generator().manual_seed(secrets.randbits(62))
    count = max(len(stream) // AGAIN, AT_LEAST)
    chosen = torch.randperm(len(stream), generator=generator)[:count]
    pairs = chosen[:IN_PAIRS]
    others = chosen[IN_PAIRS:]
    others = others[logits[others].argmax(1).argsort()]
    model = _fresh(job)
    again = [_ask(job, model, stream[pairs], 2)]
    group = min(GROUP, max(2, together(stream, job.device)))
    # Some at a time: a sixteenth of a stream may be larger than memory too.
    for part in torch.split(others, AT_LEAST):
        again.append(_ask(job, model, stream[part], group))
    check_independence(logits[torch.cat([pairs, others])], torch.cat(again))


def _fresh(job: Job[EvaluatePayload]) -> nn.Module:
    """Return the model, which has seen nothing yet."""
    payload = job.payload
    source = job.inputs / "model" / MODEL_FILE
    return open_model(source, payload.structure, payload.task, job.device)


def _ask(job: Job[EvaluatePayload], model: nn.Module, images: Tensor, batch: int) -> Tensor:
    """Return the model's logits for images of the stream, `batch` at a time."""
    classes = job.payload.task.classes
    return logits_of(model, images, device=job.device, batch=batch, classes=classes)
