"""STL-10."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from plugins.datasets.published import Published

if TYPE_CHECKING:
    import numpy as np

SPLITS = ("train", "test")


class Stl10(Published):
    """STL-10: 5,000 + 8,000 colour pictures of 96 x 96 pixels in 10 classes, in torchvision's
    files.
    """

    citation = "Coates et al., An Analysis of Single-Layer Networks in Unsupervised Feature Learning, AISTATS 2011"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 5,000 / 8,000, validation not stated; defenders have 5 % of the training set.
        "deck": {"pool": 250, "pool_in_train": True},
    }
    called: ClassVar[str] = "stl10"
    place: ClassVar[str] = "stl10_binary"

    def files(self) -> list[Path]:
        """Pictures and labels of both splits; the unlabelled pictures count for nothing here."""
        return [
            self.folder / self.place / f"{split}_{part}.bin" for split in SPLITS for part in "Xy"
        ]

    def measure(self) -> tuple[int, int, int, int, int, int]:
        """From the sizes of the label files."""
        _, train, _, test = (path.stat().st_size for path in self.files())
        return 10, 96, 96, 3, train, test

    def decode(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """As torchvision reads them; it compares checksums first."""
        import numpy as np
        from torchvision.datasets import STL10

        train, test = (STL10(self.folder, split=split) for split in SPLITS)
        images = [one.data.transpose(0, 2, 3, 1) for one in (train, test)]
        return images[0], train.labels.astype(np.int64), images[1], test.labels.astype(np.int64)

    def fetch(self) -> None:
        """See `Published.fetch`."""
        from torchvision.datasets import STL10

        STL10(self.folder, download=True)
