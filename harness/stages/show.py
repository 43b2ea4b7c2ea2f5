"""Stage `show`: a few images beside what a part makes of them, for people to look at.

Leaves `panel.safetensors` and `panel.json` as the stage `preview` does: `clean` images, and under
the captions that the part gives others, in grey levels of 0..255.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from safetensors.torch import save_file

from harness.components import Part, load_component
from harness.errors import Incompatible
from harness.learn.images import ImageSet, to_float
from harness.learn.weights import load_state
from harness.stages.artefacts import MODEL_FILE, PANEL_FACTS_FILE, PANEL_FILE, split_file
from harness.stages.job import Job
from harness.stages.materials import seed_everything, stage_context
from harness.stages.payloads import ShowPayload
from harness.stages.sampling import stratified


def run(job: Job[ShowPayload]) -> None:
    """Open the part, and let it show what it makes of some test images."""
    payload = job.payload
    context = stage_context(job, payload.context)
    seed_everything(context.coordinates)
    part = load_component(payload.component)
    assert isinstance(part, Part)
    module = part.build(context.task, None)
    load_state(module, job.inputs / "part" / MODEL_FILE)
    module.to(job.device).eval()
    test = ImageSet.load(job.inputs / "data" / split_file("test"))
    if not len(test):
        raise Incompatible("the data set has no test images")
    assert test.labels is not None
    labels = test.labels.numpy()
    generator = np.random.Generator(np.random.PCG64(context.coordinates.shared("images")))
    order = stratified(labels, generator)[: payload.images]
    order = order[np.argsort(labels[order], kind="stable")]
    clean = test.images[torch.from_numpy(order)]
    tensors = {"clean": clean}
    rows = [{"caption": "clean", "images": "clean", "less": ""}]
    images = to_float(clean.to(job.device))
    for number, (caption, shown) in enumerate(part.shown(module, images).items()):
        if shown.shape != images.shape or not shown.isfinite().all():
            raise ValueError(
                f"{type(part).__name__}.shown gave {caption!r} of shape {tuple(shown.shape)}; "
                f"finite images of shape {tuple(images.shape)} are expected"
            )
        name = f"shown.{number}"
        grey = shown.float().cpu().permute(0, 2, 3, 1) * 255
        tensors[name] = grey.contiguous()
        rows.append({"caption": caption, "images": name, "less": ""})
        rows.append({"caption": "difference", "images": name, "less": "clean"})
    columns = [f"class {label}" for label in labels[order]]
    section = {"title": "test images", "columns": columns, "rows": rows}
    save_file(tensors, job.out / PANEL_FILE)
    facts = {"notes": [], "sections": [section]}
    (job.out / PANEL_FACTS_FILE).write_text(json.dumps(facts))
