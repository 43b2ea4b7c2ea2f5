"""SVHN."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from plugins.datasets.placed import Arrays
from plugins.datasets.published import Published, torchvision_datasets

SPLITS = ("train", "test")


class Svhn(Published):
    """SVHN: 73,257 + 26,032 house numbers in colour, 32 x 32, 10 digits, in torchvision's files."""

    citation = (
        "Netzer et al., Reading Digits in CountOrZero Images with Unsupervised Feature Learning, "
        "NIPS workshop 2011"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 67,257 / 6,000 / 26,032; defenders have 5 % of the training set.
        "deck": {"validation": 6000, "pool": 3662, "pool_in_train": True},
    }
    known_classes: ClassVar[tuple[str, ...]] = tuple("0123456789")
    mirrors: ClassVar[bool] = False
    called: ClassVar[str] = "svhn"
    place: ClassVar[str] = "test_32x32.mat"

    def files(self) -> list[Path]:
        """Return the two MATLAB files."""
        return [self.folder / f"{split}_32x32.mat" for split in SPLITS]

    def measure(self) -> tuple[int, int, int, int, int, int]:
        """Count by the headers of the files."""
        from scipy.io import whosmat  # late: a plan imports this module, and SciPy is slow

        counts = []
        for path in self.files():
            shapes = {name: shape for name, shape, _ in whosmat(path)}
            counts.append(shapes["y"][0])
        train, test = counts
        return 10, 32, 32, 3, train, test

    def decode(self) -> Arrays:
        """Read the files with torchvision, which compares checksums first."""
        svhn = torchvision_datasets().SVHN
        train = svhn(self.folder, split="train")
        test = svhn(self.folder, split="test")
        train_images = train.data.transpose(0, 2, 3, 1)
        test_images = test.data.transpose(0, 2, 3, 1)
        return train_images, train.labels, test_images, test.labels

    def fetch(self) -> None:
        """See `Published.fetch`."""
        svhn = torchvision_datasets().SVHN
        for split in SPLITS:
            svhn(self.folder, split=split, download=True)
