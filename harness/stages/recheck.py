"""Stage `recheck`: a model's answers to the sample of a stream, where it knows of no other images.

The model is in a process of its own, which gets the sample a few images at a time, and cannot look
it up: what it answers to the first ones, it answers without knowing what else there is. Whether
`evaluate`, which had all of them at once, got the same answers is found out where both are put
together (see `independence`).

Leaves `again.safetensors`: `logits`, float32 (n, classes), for each image of the sample.
"""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.learn.evaluation import logits_of, together
from harness.stages.apart import Served, model_apart, out_of_reach
from harness.stages.artefacts import AGAIN_FILE, SAMPLE_FILE
from harness.stages.confine import confine
from harness.stages.independence import GROUP, IN_PAIRS
from harness.stages.job import Job
from harness.stages.materials import judged_model, seed_everything
from harness.stages.payloads import RecheckPayload


def run(job: Job[RecheckPayload]) -> None:
    """Ask the model about the first images two at a time, and about the others in groups."""
    payload = job.payload

    def prepare() -> None:
        if job.device == "cpu":
            # Once more, so that this process cannot look into the one that asks.
            confine(job.out.parent)
        seed_everything(payload.coordinates)

    def build() -> nn.Module:
        return judged_model(job.inputs, payload.structure, payload.task, job.device)

    def ask(model: nn.Module, images: Tensor) -> Tensor:
        return logits_of(
            model, images, device=job.device, batch=len(images), classes=payload.task.classes
        )

    logits = []
    path = job.inputs / "sample" / SAMPLE_FILE
    with (
        model_apart(Served(prepare, build, ask, job.opened)) as asked,
        out_of_reach(path) as sample,
    ):
        asked.begin()
        group = min(GROUP, max(2, together(torch.from_numpy(sample), job.device)))
        first = 0
        while first < len(sample):
            last = first + (2 if first < IN_PAIRS else group)
            logits.append(asked.about(sample[first:last]))
            first = last
        job.record["images"] = len(sample)
    save_file({"logits": torch.cat(logits)}, job.out / AGAIN_FILE)
