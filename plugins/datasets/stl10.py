"""STL-10."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from plugins.datasets.placed import Arrays
from plugins.datasets.published import Published, torchvision_datasets

FILES = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin")
"""pictures and labels of both splits; the unlabelled pictures count for nothing here"""


class Stl10(Published):
    """STL-10: 5,000 + 8,000 colour pictures, 96 x 96, 10 classes, in torchvision's files."""

    citation = (
        "Coates et al., An Analysis of Single-Layer Networks in Unsupervised Feature Learning, "
        "AISTATS 2011"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 5,000 / 8,000, validation not stated; defenders have 5 % of the training set.
        "deck": {"pool": 250, "pool_in_train": True},
    }
    known_classes: ClassVar[tuple[str, ...]] = (
        "airplane",
        "bird",
        "car",
        "cat",
        "deer",
        "dog",
        "horse",
        "monkey",
        "ship",
        "truck",
    )
    called: ClassVar[str] = "stl10"
    place: ClassVar[str] = "stl10_binary"

    def files(self) -> list[Path]:
        """Return pictures and labels of both splits."""
        return [self.folder / self.place / name for name in FILES]

    def measure(self) -> tuple[int, int, int, int, int, int]:
        """Count by the sizes of the label files."""
        _, train_labels, _, test_labels = self.files()
        train = train_labels.stat().st_size
        test = test_labels.stat().st_size
        return 10, 96, 96, 3, train, test

    def decode(self) -> Arrays:
        """Read the files with torchvision, which compares checksums first."""
        stl10 = torchvision_datasets().STL10
        train = stl10(self.folder, split="train")
        test = stl10(self.folder, split="test")
        train_images = train.data.transpose(0, 2, 3, 1)
        test_images = test.data.transpose(0, 2, 3, 1)
        train_labels = train.labels.astype(np.int64)
        test_labels = test.labels.astype(np.int64)
        return train_images, train_labels, test_images, test_labels

    def fetch(self) -> None:
        """See `Published.fetch`."""
        torchvision_datasets().STL10(self.folder, download=True)
