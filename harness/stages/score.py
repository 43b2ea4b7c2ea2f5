"""Stage `score`: the metrics of one distribution that need predictions only, for one cell.

Metrics of different distributions never share a child, so one that crashes takes nobody else's rows
with it. Leaves `rows.json`: metric (see `called`) -> {sub-name or "": value}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from harness.stages import Job

if TYPE_CHECKING:
    from harness.components import Predictions

VARIANT = "variant."
"""What the names of further triggers' predictions begin with."""


def run(job: Job) -> None:
    """Score every metric."""
    from harness.components import Metric, load_component

    predictions = open_predictions(job)
    rows = {}
    for name, spec in job.payload["metrics"].items():
        metric = load_component(spec)
        assert isinstance(metric, Metric)
        rows[name] = checked(metric.score(predictions), name)
    (job.out / "rows.json").write_text(json.dumps(rows))


def checked(scored: object, name: str) -> dict[str, float]:
    """One number or several by name, finite."""
    from harness.stages.materials import finite

    return finite(scored if isinstance(scored, Mapping) else {"": scored}, f"metric {name}")


def open_predictions(job: Job) -> Predictions:
    """What `evaluate` left, and the record of the defense stage (zeros where there was no defense)."""
    from safetensors.numpy import load_file

    from harness.components import Predictions
    from harness.stages.materials import RESULT

    arrays = load_file(job.inputs / "predictions" / "predictions.safetensors")
    result = job.inputs / "result" / RESULT
    record = (
        json.loads(result.read_text())["record"]
        if result.exists()
        else {"seconds": 0.0, "images": 0.0}
    )
    return Predictions(
        labels=arrays["labels"],
        clean=arrays["clean"],
        mapped=arrays["mapped"],
        triggered=arrays.get("triggered"),
        variants={
            name[len(VARIANT) :]: array
            for name, array in arrays.items()
            if name.startswith(VARIANT)
        },
        logits=arrays["logits"],
        record=record,
    )
