"""Stage `measure`: one metric that needs the model or data.

Leaves `rows.json` (as `score` does) and, where the metric kept arrays, `arrays.safetensors`. The
same stage on the reference model is upstream of one whose metric needs `reference`: an original
model is measured once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.stages import Job

if TYPE_CHECKING:
    from harness.components import Task


def run(job: Job) -> None:
    """Measure, check, save."""
    import numpy as np
    from safetensors.numpy import save_file

    from harness.access.granted import MetricAccess
    from harness.components import Metric, load_component
    from harness.errors import Incompatible
    from harness.stages.materials import seed_everything, stage_context
    from harness.stages.score import checked

    row = job.payload["row"]
    metric = load_component(job.payload["component"])
    assert isinstance(metric, Metric)
    context = stage_context(job)
    seed_everything(context.coordinates)
    if "model" in metric.needs and not (job.inputs / "model" / "model.safetensors").exists():
        raise Incompatible("the defense gave a verdict and no model")
    access = MetricAccess(context, frozenset(metric.needs), openers(job, context.task))
    rows = {row: checked(metric.measure(access), row)}
    (job.out / "rows.json").write_text(json.dumps(rows))
    if access.arrays:
        arrays = {name: np.ascontiguousarray(array) for name, array in access.arrays.items()}
        save_file(arrays, job.out / "arrays.safetensors")
    job.record.update(access.account())


def openers(job: Job, task: Task) -> dict[str, Callable[[], Any]]:
    """How each granted thing is opened, by its name in `needs`; `poisoned` comes with
    `training-set`.
    """
    from safetensors.numpy import load_file

    from harness.stages.materials import RESULT, open_images, open_model, open_oracle
    from harness.stages.score import open_predictions

    inputs, payload = job.inputs, job.payload
    model, test = inputs / "model" / "model.safetensors", inputs / "test" / "test.safetensors"

    def reference() -> dict[str, Any] | None:
        if not (inputs / "reference").exists():
            return None
        arrays = inputs / "reference" / "arrays.safetensors"
        values = json.loads((inputs / "reference" / "rows.json").read_text())[payload["row"]]
        return {"values": values, "arrays": load_file(arrays) if arrays.exists() else {}}

    def result() -> dict[str, Any] | None:
        found = inputs / "result" / RESULT
        return json.loads(found.read_text()) if found.exists() else None

    return {
        "model": lambda: open_model(model, payload["structure"], task, job.device),
        "validation": lambda: open_images(inputs / "validation" / "validation.safetensors"),
        "test": lambda: open_images(test),
        "training-set": lambda: open_images(inputs / "training" / "training.safetensors"),
        "poisoned": lambda: load_file(inputs / "training" / "poisoned.safetensors")["poisoned"],
        "trigger": lambda: open_oracle(inputs / "truth", test, payload["attack"], task, job.device),
        "result": result,
        "reference": reference,
        "predictions": lambda: open_predictions(job),
    }
