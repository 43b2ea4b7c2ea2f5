"""Stage `measure`: one metric that needs the model or data.

Leaves `rows.json` (as `score` does) and, where the metric kept arrays, `arrays.safetensors`. The same stage on the
reference model is upstream of one whose metric needs `reference`: an original model is measured once.
"""

from __future__ import annotations

import json
from typing import Any

from harness.stages import Job


def run(job: Job) -> None:
    """Measure, check, save."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    from harness.access import MetricAccess, load_component
    from harness.components import Metric
    from harness.errors import Incompatible
    from harness.stages.materials import RESULT, open_images, open_model, open_oracle, seed_everything, surroundings
    from harness.stages.score import checked, open_predictions

    inputs, payload = job.inputs, job.payload
    row = payload["row"]
    metric = load_component(payload["component"])
    assert isinstance(metric, Metric)
    around = surroundings(job)
    seed_everything(around.coordinates)
    source = inputs / "model" / "model.safetensors"
    if "model" in metric.needs and not source.exists():
        raise Incompatible("the defense gave a verdict and no model")

    def reference() -> dict[str, Any] | None:
        if not (inputs / "reference").exists():
            return None
        arrays = inputs / "reference" / "arrays.safetensors"
        values = json.loads((inputs / "reference" / "rows.json").read_text())[row]
        return {"values": values, "arrays": load_file(arrays) if arrays.exists() else {}}

    def result() -> dict[str, Any] | None:
        found = inputs / "result" / RESULT
        return json.loads(found.read_text()) if found.exists() else None

    test = inputs / "test" / "test.safetensors"
    files = {
        "model": lambda: open_model(source, payload["structure"], around.task, job.device),
        "validation": lambda: open_images(inputs / "validation" / "validation.safetensors"),
        "test": lambda: open_images(test),
        "training-set": lambda: open_images(inputs / "training" / "training.safetensors"),
        "poisoned": lambda: load_file(inputs / "training" / "poisoned.safetensors")["poisoned"],
        "trigger": lambda: open_oracle(inputs / "truth", test, payload["attack"], around.task, job.device),
        "result": result,
        "reference": reference,
        "predictions": lambda: open_predictions(job),
    }
    access = MetricAccess(around, frozenset(metric.needs), files)
    rows = {row: checked(metric.measure(access), row)}
    (job.out / "rows.json").write_text(json.dumps(rows))
    if access.arrays:
        save_file({name: np.ascontiguousarray(array) for name, array in access.arrays.items()}, job.out / "arrays.safetensors")
    job.record["images"] = access.images_processed
