"""Files from outside the checkout, where environment variables point to them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch


def outside(variable: str, name: str) -> Path:
    """Return the file `name` in the folder that `variable` names; skip the test where it is not."""
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"needs {name}, and ${variable} names no folder")
    path = Path(folder) / name
    if not path.is_file():
        pytest.skip(f"needs {name}, which ${variable} does not hold")
    return path


def cifar10_test(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first test pictures of CIFAR-10, (count, 3, 32, 32) in [0,1], and their labels."""
    with np.load(outside("BENCH_DATA", "cifar10.npz")) as pictures:
        images = torch.from_numpy(pictures["test_images"][:count])
        labels = torch.from_numpy(pictures["test_labels"][:count])
    return images.permute(0, 3, 1, 2).float() / 255, labels
