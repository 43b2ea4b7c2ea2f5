"""Stage `grant`: the clean images that one defender gets.

A nested, stratified prefix of the pool in the order of the defense seed: the first 50 are part of
the first 500. Leaves `images.safetensors`; without labels where the grant is unlabelled.
"""

from __future__ import annotations

from harness.stages import Job


def run(job: Job) -> None:
    """Order, cut, save."""
    import numpy as np
    import torch

    from harness.access.context import Coordinates
    from harness.learn.images import ImageSet
    from harness.stages.data import stratified
    from harness.stages.materials import open_images

    pool = open_images(next(iter((job.inputs / "data").iterdir())))
    assert pool.labels is not None
    start = Coordinates(**job.payload["coordinates"]).shared("order")
    order = stratified(pool.labels.numpy(), np.random.Generator(np.random.PCG64(start)))
    granted = pool.subset(torch.from_numpy(order[: job.payload["count"]].copy()))
    if not job.payload["labelled"]:
        granted = ImageSet(granted.images, None)
    granted.save(job.out / "images.safetensors")
