"""CIFAR-10."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from plugins.datasets.placed import Arrays
from plugins.datasets.published import Published, torchvision_datasets


class Cifar10(Published):
    """CIFAR-10: 50,000 + 10,000 colour pictures, 32 x 32, 10 classes, in torchvision's files."""

    citation = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 45,000 are left to train on; defenses draw from the tenth that is held back.
        "anp": {"pool": 5000},
        # The text takes the defender's 5,000 from the test set, the released code a tenth of the
        # training set.
        "bcu": {"pool": 5000, "pool_from": "test"},
        "bcu-code": {"pool": 5000},
        # 48,000 / 2,000 / 10,000; defenders have 5 % of the training set, from which nothing is
        # said to be held back.
        "deck": {"validation": 2000, "pool": 2500, "pool_in_train": True},
        # The hold-out is 5 %; the paper takes the last images, this a stratified sample.
        "trap": {"pool": 2500},
    }
    known_classes: ClassVar[tuple[str, ...]] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    called: ClassVar[str] = "cifar10"
    place: ClassVar[str] = "cifar-10-batches-py"

    def files(self) -> list[Path]:
        """Return the pickled batches."""
        cifar10 = torchvision_datasets().CIFAR10
        folder = self.folder / self.place
        return [folder / name for name, _ in (*cifar10.train_list, *cifar10.test_list)]

    def measure(self) -> tuple[int, int, int, int, int, int]:
        """Count the labels; torchvision compares checksums before it unpickles."""
        _, train_labels, _, test_labels = self.decode()
        return 10, 32, 32, 3, len(train_labels), len(test_labels)

    def decode(self) -> Arrays:
        """Read the batches with torchvision."""
        cifar10 = torchvision_datasets().CIFAR10
        train = cifar10(self.folder, train=True)
        test = cifar10(self.folder, train=False)
        train_labels = np.array(train.targets, np.int64)
        test_labels = np.array(test.targets, np.int64)
        return train.data, train_labels, test.data, test_labels

    def fetch(self) -> None:
        """See `Published.fetch`."""
        torchvision_datasets().CIFAR10(self.folder, download=True)
