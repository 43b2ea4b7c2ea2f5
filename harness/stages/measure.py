"""Stage `measure`: one metric that needs the model or data.

Leaves `rows.json` (as `score` does) and, where the metric kept arrays, `arrays.safetensors`. The
same stage on the reference model is upstream of one whose metric needs `reference`: an original
model is measured once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from harness.access.granted import MetricAccess, Oracle
from harness.components import Metric, Task, load_component
from harness.errors import Incompatible
from harness.learn.images import ImageSet
from harness.stages.answers import open_predictions
from harness.stages.artefacts import (
    ARRAYS_FILE,
    IMAGES_FILE,
    MODEL_FILE,
    POISONED_FILE,
    RESULT_FILE,
    ROWS_FILE,
    TRAINING_FILE,
    split_file,
)
from harness.stages.job import Job
from harness.stages.materials import open_model, open_oracle, seed_everything, stage_context
from harness.stages.payloads import MeasurePayload
from harness.stages.score import checked


def run(job: Job[MeasurePayload]) -> None:
    """Measure, check, save."""
    payload = job.payload
    metric = load_component(payload.component)
    assert isinstance(metric, Metric)
    context = stage_context(job, payload.context)
    seed_everything(context.coordinates)
    granted = frozenset(metric.grants())
    if "model" in granted and not (job.inputs / "model" / MODEL_FILE).exists():
        raise Incompatible("the defense gave a verdict and no model")
    access = MetricAccess(context, granted, openers(job, context.task))
    rows = {payload.row: checked(metric.measure(access), payload.row)}
    (job.out / ROWS_FILE).write_text(json.dumps(rows))
    if access.arrays:
        arrays = {name: np.ascontiguousarray(array) for name, array in access.arrays.items()}
        save_file(arrays, job.out / ARRAYS_FILE)
    job.record.update(access.account())


def openers(job: Job[MeasurePayload], task: Task) -> dict[str, Callable[[], Any]]:
    """Return a function for each thing that can be granted, by its name in `needs`, which opens
    it.
    """
    inputs = job.inputs
    payload = job.payload
    test = inputs / "test" / split_file("test")
    training = inputs / "training"

    def trigger() -> Oracle:
        assert payload.attack is not None
        return open_oracle(inputs / "truth", test, payload.attack, task, job.device)

    def reference() -> dict[str, Any] | None:
        folder = inputs / "reference"
        if not folder.exists():
            return None
        values = json.loads((folder / ROWS_FILE).read_text())[payload.row]
        arrays = {}
        if (folder / ARRAYS_FILE).exists():
            arrays = load_file(folder / ARRAYS_FILE)
        return {"values": values, "arrays": arrays}

    def result() -> dict[str, Any] | None:
        path = inputs / "result" / RESULT_FILE
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    return {
        "model": lambda: open_model(
            inputs / "model" / MODEL_FILE, payload.structure, task, job.device
        ),
        "validation": lambda: ImageSet.load(inputs / "validation" / split_file("validation")),
        "validation-unlabelled": lambda: ImageSet.load(
            inputs / "validation-unlabelled" / IMAGES_FILE
        ),
        "test": lambda: ImageSet.load(test),
        "test-unlabelled": lambda: ImageSet.load(inputs / "test-unlabelled" / IMAGES_FILE),
        "training-set": lambda: ImageSet.load(training / TRAINING_FILE),
        "poisoned": lambda: load_file(inputs / "poisoned" / POISONED_FILE)["poisoned"],
        "trigger": trigger,
        "result": result,
        "reference": reference,
        "predictions": lambda: open_predictions(inputs),
    }
