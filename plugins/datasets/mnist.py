"""MNIST."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from plugins.datasets.published import Published

if TYPE_CHECKING:
    import numpy as np

STEMS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
HEADER = 8
"""bytes before the labels of an idx1 file"""


class Mnist(Published):
    """MNIST: 60,000 + 10,000 grey handwritten digits of 28 x 28 pixels, in torchvision's files."""

    citation = (
        "LeCun et al., Gradient-Based Learning Applied to Document Recognition, Proc. IEEE 1998"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # A tenth is held back as on CIFAR-10: inferred, the supplement does not say.
        "anp": {"pool": 6000},
    }
    called: ClassVar[str] = "mnist"
    place: ClassVar[str] = "MNIST/raw"

    def files(self) -> list[Path]:
        """The four unpacked idx files."""
        return [self.folder / self.place / f"{stem}-ubyte" for stem in STEMS]

    def measure(self) -> tuple[int, int, int, int, int, int]:
        """From the sizes of the label files."""
        _, train, _, test = (path.stat().st_size - HEADER for path in self.files())
        return 10, 28, 28, 1, train, test

    def decode(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """As torchvision reads them."""
        from torchvision.datasets import MNIST

        train, test = (MNIST(self.folder, train=split) for split in (True, False))
        return (
            train.data.numpy()[..., None],
            train.targets.numpy(),
            test.data.numpy()[..., None],
            test.targets.numpy(),
        )

    def fetch(self) -> None:
        """See `Published.fetch`."""
        from torchvision.datasets import MNIST

        MNIST(self.folder, download=True)
