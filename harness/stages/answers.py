"""Predictions: a model's answers to a stream, put together with the truth about the stream."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from harness.access.predictions import Predictions
from harness.learn.evaluation import halved
from harness.stages import independence
from harness.stages.artefacts import (
    AGAIN_FILE,
    ANSWERS_FILE,
    BESIDE_PLACES,
    PLACES_FILE,
    RESULT_FILE,
    VARIANT,
)


def open_predictions(inputs: Path) -> Predictions:
    """Return what `evaluate` left, in the order of the test set, with the record of the defense
    stage (zeros where there was no defense).

    Raises ValueError where the answers are not those to the stream and its sample, and
    NotIndependent where `recheck` got others.
    """
    truth = load_file(inputs / "places" / PLACES_FILE)
    labels, sample = truth["labels"], truth["sample"]
    places = {name: array for name, array in truth.items() if name not in BESIDE_PLACES}
    logits = _logits(inputs / "answers" / ANSWERS_FILE, len(places) * len(labels), "stream")
    again = _logits(inputs / "again" / AGAIN_FILE, len(sample), "sample")
    independence.check(logits[sample], again)

    answers = logits.argmax(1)
    under = {name: answers[where].numpy() for name, where in places.items()}
    variants = {}
    for name, answered in under.items():
        if name.startswith(VARIANT):
            variants[name.removeprefix(VARIANT)] = answered
    return Predictions(
        labels=labels.numpy(),
        clean=under["clean"],
        mapped=truth["mapped"].numpy(),
        triggered=under.get("triggered"),
        variants=variants,
        logits=halved(logits[places["clean"]]).numpy(),
        record=_record(inputs / "result" / RESULT_FILE),
    )


def _logits(path: Path, asked: int, what: str) -> Tensor:
    """Return the logits of a file, of which one row for each image asked is expected."""
    logits = load_file(path)["logits"]
    if logits.dtype != torch.float32 or logits.ndim != 2 or len(logits) != asked:
        raise ValueError(
            f"the logits in {path.name} are {logits.dtype} {tuple(logits.shape)}; "
            f"torch.float32 ({asked}, classes) are expected, a row for each image of the {what}"
        )
    if not logits.isfinite().all():
        raise ValueError(f"the logits in {path.name} are not all finite")
    return logits


def _record(result: Path) -> dict[str, float]:
    if not result.exists():
        return {"seconds": 0.0, "images": 0.0}
    record: dict[str, float] = json.loads(result.read_text())["record"]
    return record
