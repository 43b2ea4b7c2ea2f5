"""Stage `score`: the metrics of one distribution that need predictions only, for one cell.

Metrics of different distributions never share a child, so one that crashes takes nobody else's rows
with it. Leaves `rows.json`: metric (see `called`) -> {sub-name or "": value}, or the reason why the
metric makes no sense here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from harness.components import Metric, Predictions, load_component
from harness.components.spec import ComponentSpec
from harness.errors import Incompatible, said
from harness.stages.answers import open_predictions
from harness.stages.artefacts import ROWS_FILE
from harness.stages.job import Job
from harness.stages.materials import finite
from harness.stages.payloads import ScorePayload
from harness.store.plain import clean


def run(job: Job[ScorePayload]) -> None:
    """Score every metric, each by itself: none takes the others along.

    Where one fails the stage fails, but the record keeps what the others gave (`rows`) and why each
    one failed (`failures`). Raises what the first of them raised.
    """
    job.record["commonest"] = commonest(open_predictions(job.inputs))
    rows: dict[str, dict[str, float] | str] = {}
    failures: dict[str, Exception] = {}
    for name, spec in job.payload.metrics.items():
        try:
            rows[name] = _scored(job, name, spec)
        except Incompatible as error:
            rows[name] = str(error)
        except Exception as error:  # whatever it is, it is this metric's own
            failures[name] = error
    if failures:
        job.record["rows"] = rows
        job.record["failures"] = {name: clean(said(error)) for name, error in failures.items()}
        first, *_ = failures.values()
        raise first
    (job.out / ROWS_FILE).write_text(json.dumps(rows))


def commonest(predictions: Predictions) -> dict[str, float]:
    """Return the share of clean test images that get the commonest label (`answered`), and that of
    those that have it (`true`).
    """
    if not len(predictions.clean):
        return {}
    label = int(np.bincount(predictions.clean).argmax())
    return {
        "answered": float((predictions.clean == label).mean()),
        "true": float((predictions.labels == label).mean()),
    }


def _scored(job: Job[ScorePayload], name: str, spec: ComponentSpec) -> dict[str, float]:
    """Return the numbers of one metric. It gets predictions of its own, which it may write into."""
    metric = load_component(spec)
    assert isinstance(metric, Metric)
    return checked(metric.score(open_predictions(job.inputs)), name)


def checked(scored: object, name: str) -> dict[str, float]:
    """Return one number (under the name "") or several by name. Raises ValueError unless they are
    finite.
    """
    numbers = scored if isinstance(scored, Mapping) else {"": scored}
    return finite(numbers, f"metric {name}")
