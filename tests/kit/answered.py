"""What a model answered to a stream of test images, as the stages before a metric leave it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

CLASSES = 4


def answered(folder: Path, labels: np.ndarray, **sets: np.ndarray) -> np.ndarray:
    """Write `answers`, `again` and `places` into `folder`; `sets` are the answers to images, clean
    and under each trigger, in the order of the test set. The sample is that of the last set.

    Returns the stream's answers. The logits of an image are large at its answer, and its place in
    the stream stands behind those of the classes.
    """
    count = len(labels)
    order = np.random.default_rng(0).permutation(count * len(sets))
    places = {}
    answers = np.empty(len(order), np.int64)
    for number, (name, given) in enumerate(sets.items()):
        places[name] = order[number * count : (number + 1) * count].copy()
        answers[places[name]] = given
    logits = np.zeros((len(order), CLASSES + 1), np.float32)
    logits[np.arange(len(order)), answers] = 100
    logits[:, CLASSES] = np.arange(len(order))
    sample = places[name]
    truth = {"labels": labels, "mapped": np.zeros(count, np.int64), "sample": sample, **places}
    for role, arrays in (
        ("answers", {"logits": logits}),
        ("again", {"logits": logits[sample]}),
        ("places", truth),
    ):
        (folder / role).mkdir(exist_ok=True)
        save_file(arrays, folder / role / f"{role}.safetensors")
    return answers
