"""Stage `grant`: the clean images that one defender gets.

A nested, stratified prefix of the pool in the order of the defense seed: the first 50 are part of
the first 500. Leaves `images.safetensors`; without labels where the grant is unlabelled.
"""

from __future__ import annotations

import numpy as np
import torch

from harness.learn.images import ImageSet
from harness.stages.artefacts import IMAGES_FILE
from harness.stages.job import Job
from harness.stages.payloads import GrantPayload
from harness.stages.sampling import stratified


def run(job: Job[GrantPayload]) -> None:
    """Order, cut, save."""
    split = next((job.inputs / "data").iterdir())
    pool = ImageSet.load(split)
    assert pool.labels is not None
    start = job.payload.coordinates.shared("order")
    generator = np.random.Generator(np.random.PCG64(start))
    order = stratified(pool.labels.numpy(), generator)
    chosen = torch.from_numpy(order[: job.payload.count].copy())
    granted = pool.subset(chosen)
    if not job.payload.labelled:
        granted = ImageSet(granted.images, None)
    granted.save(job.out / IMAGES_FILE)
