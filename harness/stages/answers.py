"""Predictions: a model's answers to a stream, put together with the truth about the stream."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from harness.access.predictions import Predictions
from harness.stages.artefacts import ANSWERS_FILE, PLACES_FILE, RESULT_FILE, VARIANT

TRUTHS = ("labels", "mapped")
"""The arrays beside the places of images."""


def open_predictions(inputs: Path) -> Predictions:
    """Return what `evaluate` left, in the order of the test set, with the record of the defense
    stage (zeros where there was no defense).

    Raises ValueError where the answers are not those to the stream.
    """
    found = load_file(inputs / "answers" / ANSWERS_FILE)
    truth = load_file(inputs / "places" / PLACES_FILE)
    places = {name: array for name, array in truth.items() if name not in TRUTHS}
    labels = truth["labels"]
    asked = len(places) * len(labels)
    answers = found["answers"]
    logits = found["logits"]
    if answers.shape != (asked,) or answers.dtype != np.int64 or len(logits) != asked:
        raise ValueError(
            f"the answers are {answers.dtype} {answers.shape} with {len(logits)} logits; "
            f"int64 ({asked},) are expected, one for each image of the stream"
        )
    under = {name: answers[where] for name, where in places.items()}
    variants = {}
    for name, answered in under.items():
        if name.startswith(VARIANT):
            variants[name.removeprefix(VARIANT)] = answered
    return Predictions(
        labels=labels,
        clean=under["clean"],
        mapped=truth["mapped"],
        triggered=under.get("triggered"),
        variants=variants,
        logits=logits[places["clean"]],
        record=_record(inputs / "result" / RESULT_FILE),
    )


def _record(result: Path) -> dict[str, float]:
    if not result.exists():
        return {"seconds": 0.0, "images": 0.0}
    record: dict[str, float] = json.loads(result.read_text())["record"]
    return record
