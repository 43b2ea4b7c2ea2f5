"""Stage `score`: the metrics of one distribution that need predictions only, for one cell.

Metrics of different distributions never share a child, so one that crashes takes nobody else's rows
with it. Leaves `rows.json`: metric (see `called`) -> {sub-name or "": value}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from safetensors.numpy import load_file

from harness.components import Metric, Predictions, load_component
from harness.stages.artefacts import PREDICTIONS_FILE, RESULT_FILE, ROWS_FILE, VARIANT
from harness.stages.job import Job
from harness.stages.materials import finite
from harness.stages.payloads import Payload, ScorePayload


def run(job: Job[ScorePayload]) -> None:
    """Score every metric."""
    predictions = open_predictions(job)
    rows = {}
    for name, spec in job.payload.metrics.items():
        metric = load_component(spec)
        assert isinstance(metric, Metric)
        rows[name] = checked(metric.score(predictions), name)
    (job.out / ROWS_FILE).write_text(json.dumps(rows))


def checked(scored: object, name: str) -> dict[str, float]:
    """Return one number (under the name "") or several by name. Raises ValueError unless they are
    finite.
    """
    numbers = scored if isinstance(scored, Mapping) else {"": scored}
    return finite(numbers, f"metric {name}")


def open_predictions(job: Job[Payload]) -> Predictions:
    """Return what `evaluate` left, and the record of the defense stage (zeros where there was no
    defense).
    """
    arrays = load_file(job.inputs / "predictions" / PREDICTIONS_FILE)
    variants = {}
    for name, array in arrays.items():
        if name.startswith(VARIANT):
            variants[name.removeprefix(VARIANT)] = array
    record = {"seconds": 0.0, "images": 0.0}
    result = job.inputs / "result" / RESULT_FILE
    if result.exists():
        record = json.loads(result.read_text())["record"]
    return Predictions(
        labels=arrays["labels"],
        clean=arrays["clean"],
        mapped=arrays["mapped"],
        triggered=arrays.get("triggered"),
        variants=variants,
        logits=arrays["logits"],
        record=record,
    )
