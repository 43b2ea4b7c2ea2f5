"""What a model answered to a stream of test images, as the stages before a metric leave it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

CLASSES = 4


def answered(folder: Path, labels: np.ndarray, **sets: np.ndarray) -> np.ndarray:
    """Write `answers` and `places` into `folder`; `sets` are the answers to images, clean and under
    each trigger, in the order of the test set.

    Returns the stream's answers. The logits of an image are its place in the stream.
    """
    count = len(labels)
    order = np.random.default_rng(0).permutation(count * len(sets))
    places = {}
    answers = np.empty(len(order), np.int64)
    for number, (name, given) in enumerate(sets.items()):
        places[name] = order[number * count : (number + 1) * count].copy()
        answers[places[name]] = given
    logits = np.repeat(np.arange(len(order), dtype=np.float16)[:, None], CLASSES, 1)
    for role, name, arrays in (
        ("answers", "answers", {"answers": answers, "logits": logits}),
        ("places", "places", {"labels": labels, "mapped": np.zeros(count, np.int64), **places}),
    ):
        (folder / role).mkdir(exist_ok=True)
        save_file(arrays, folder / role / f"{name}.safetensors")
    return answers
