"""SVHN."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from plugins.datasets.published import Published

if TYPE_CHECKING:
    import numpy as np

SPLITS = ("train", "test")


class Svhn(Published):
    """SVHN: 73,257 + 26,032 colour pictures of house numbers, 32 x 32 pixels, 10 digits, in
    torchvision's files.
    """

    citation = "Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, NIPS workshop 2011"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 67,257 / 6,000 / 26,032; defenders have 5 % of the training set.
        "deck": {"validation": 6000, "pool": 3662, "pool_in_train": True},
    }
    called: ClassVar[str] = "svhn"
    place: ClassVar[str] = "test_32x32.mat"

    def files(self) -> list[Path]:
        """The two MATLAB files."""
        return [self.folder / f"{split}_32x32.mat" for split in SPLITS]

    def measure(self) -> tuple[int, int, int, int, int, int]:
        """From the headers of the files."""
        from scipy.io import whosmat

        counts = [
            {name: shape for name, shape, _ in whosmat(path)}["y"][0] for path in self.files()
        ]
        return 10, 32, 32, 3, counts[0], counts[1]

    def decode(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """As torchvision reads them; it compares checksums first."""
        from torchvision.datasets import SVHN

        train, test = (SVHN(self.folder, split=split) for split in SPLITS)
        return (
            train.data.transpose(0, 2, 3, 1),
            train.labels,
            test.data.transpose(0, 2, 3, 1),
            test.labels,
        )

    def fetch(self) -> None:
        """See `Published.fetch`."""
        from torchvision.datasets import SVHN

        for split in SPLITS:
            SVHN(self.folder, split=split, download=True)
