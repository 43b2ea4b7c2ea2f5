"""MNIST."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from plugins.datasets.placed import Arrays
from plugins.datasets.published import Published, torchvision_datasets

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
    known_classes: ClassVar[tuple[str, ...]] = tuple("0123456789")
    mirrors: ClassVar[bool] = False
    called: ClassVar[str] = "mnist"
    place: ClassVar[str] = "MNIST/raw"

    def files(self) -> list[Path]:
        """Return the four unpacked idx files."""
        return [self.folder / self.place / f"{stem}-ubyte" for stem in STEMS]

    def measure(self) -> tuple[int, int, int, int, int, int]:
        """Count by the sizes of the label files."""
        _, train_labels, _, test_labels = self.files()
        train = train_labels.stat().st_size - HEADER
        test = test_labels.stat().st_size - HEADER
        return 10, 28, 28, 1, train, test

    def decode(self) -> Arrays:
        """Read the files with torchvision."""
        mnist = torchvision_datasets().MNIST
        train = mnist(self.folder, train=True)
        test = mnist(self.folder, train=False)
        train_images = train.data.numpy()[..., None]
        test_images = test.data.numpy()[..., None]
        return train_images, train.targets.numpy(), test_images, test.targets.numpy()

    def fetch(self) -> None:
        """See `Published.fetch`."""
        torchvision_datasets().MNIST(self.folder, download=True)
