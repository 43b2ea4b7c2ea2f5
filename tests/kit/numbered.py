"""Pictures that carry their number, so that they are known again in whatever split they turn up: a
dataset of them, and what stages leave of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from harness.access.context import Deadline
from harness.stages.job import Job
from harness.stages.payloads import Payload

MODULE = """
import numpy as np
from harness import Dataset, Facts, Pictures

class Numbered(Dataset):
    train: int = 60
    test: int = 30
    lie: str = ""
    def facts(self):
        return Facts(4, 1, 2, 1, self.train, self.test, "numbered")
    def load(self):
        parts = []
        for first, count in ((0, self.train), (10000, self.test)):
            numbers = np.arange(first, first + count, dtype="<u2")
            images = numbers.view(np.uint8).reshape(count, 1, 2, 1)
            parts += [images, numbers.astype(np.int32) * 7 % 4]
        if self.lie == "dtype":
            parts[0] = parts[0].astype(np.float32)
        if self.lie == "shape":
            parts[2] = parts[2].reshape(-1, 2, 1, 1)
        if self.lie == "count":
            parts[0], parts[1] = parts[0][1:], parts[1][1:]
        if self.lie == "labels":
            parts[1] = parts[1][1:]
        if self.lie == "range":
            parts[3] = parts[3] + 1
        return Pictures(*parts)
"""
"""The text of a module with the dataset."""

UNSPLIT = {
    "pool": 0,
    "pool_from": "train",
    "pool_in_train": False,
    "validation": 0,
    "take": None,
    "take_test": None,
}
"""Parameters that a dataset is split by, where nothing is said."""


def job(out: Path, payload: Payload, inputs: Path = Path()) -> Job[Any]:
    """Make the job of a stage that works in folder `out`."""
    return Job(payload, inputs, out, out, "cpu", Deadline(None), lambda done, of, loss: None)


def numbered(path: Path) -> tuple[list[int], list[int]]:
    """Return the numbers and the labels of the pictures in a file."""
    arrays = load_file(path)
    images = np.ascontiguousarray(arrays["images"])
    assert images.shape[1:] == (1, 2, 1)
    numbers = images.reshape(len(images), 2).view("<u2").ravel()
    return numbers.tolist(), arrays["labels"].tolist() if "labels" in arrays else []
