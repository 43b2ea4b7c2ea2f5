"""Metrics that share a child share nothing else: numbers, reasons and failures are their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from harness import Incompatible, Metric, Predictions
from harness.components.spec import ComponentSpec
from harness.stages import score
from harness.stages.payloads import ScorePayload
from tests.kit.answered import answered
from tests.kit.numbered import job


class Share(Metric):
    def score(self, predictions: Predictions) -> float:
        return 100 * float((predictions.clean == predictions.labels).mean())


class Nowhere(Metric):
    def score(self, predictions: Predictions) -> float:
        raise Incompatible("there is nothing to score")


class Broken(Metric):
    def score(self, predictions: Predictions) -> float:
        raise RuntimeError("it broke\x1b[2J")


class NotANumber(Metric):
    def score(self, predictions: Predictions) -> Mapping[str, float]:
        return {"": float("nan")}


class Greedy(Metric):
    def score(self, predictions: Predictions) -> float:
        predictions.clean[:] = predictions.labels
        return 0.0


def scored(folder: Path, *metrics: type[Metric]) -> tuple[dict[str, object], dict[str, object]]:
    """Return the rows that were left and the record; the rows are empty where the stage failed."""
    answered(folder, labels=np.array([0, 1, 2, 3]), clean=np.array([0, 1, 0, 0]))
    specs = {one.__name__: ComponentSpec(f"{one.__module__}:{one.__name__}", {}) for one in metrics}
    out = folder / "out"
    out.mkdir()
    asked = job(out, ScorePayload(specs), folder)
    try:
        score.run(asked)
    except Exception as error:
        asked.record["raised"] = str(error)
        return {}, asked.record
    return json.loads((out / "rows.json").read_text()), asked.record


def test_one_that_makes_no_sense_leaves_the_others_alone(tmp_path: Path) -> None:
    rows, record = scored(tmp_path, Nowhere, Share)
    assert rows == {"Nowhere": "there is nothing to score", "Share": {"": 50.0}}
    assert record == {"commonest": {"answered": 0.75, "true": 0.25}}


@pytest.mark.parametrize(
    ("broken", "reason"), [(Broken, "it broke?[2J"), (NotANumber, "metric NotANumber")]
)
def test_one_that_fails_is_told_with_what_the_others_gave(
    tmp_path: Path, broken: type[Metric], reason: str
) -> None:
    rows, record = scored(tmp_path, broken, Nowhere, Share)
    assert rows == {}
    assert record["rows"] == {"Nowhere": "there is nothing to score", "Share": {"": 50.0}}
    failures = record["failures"]
    assert isinstance(failures, dict)
    assert list(failures) == [broken.__name__]
    assert reason in failures[broken.__name__]


def test_one_that_writes_into_its_predictions_changes_no_other(tmp_path: Path) -> None:
    rows, _ = scored(tmp_path, Greedy, Share)
    assert rows == {"Greedy": {"": 0.0}, "Share": {"": 50.0}}
