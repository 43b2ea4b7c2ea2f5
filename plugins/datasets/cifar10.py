"""CIFAR-10."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from plugins.datasets.published import Published

if TYPE_CHECKING:
    import numpy as np


class Cifar10(Published):
    """CIFAR-10: 50,000 + 10,000 colour pictures of 32 x 32 pixels in 10 classes, in torchvision's
    files.
    """

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
    called: ClassVar[str] = "cifar10"
    place: ClassVar[str] = "cifar-10-batches-py"

    def files(self) -> list[Path]:
        """The pickled batches."""
        from torchvision.datasets import CIFAR10

        names = [name for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list)]
        return [self.folder / self.place / name for name in names]

    def measure(self) -> tuple[int, int, int, int, int, int]:
        """Counted; torchvision compares checksums before it unpickles."""
        _, train, _, test = self.decode()
        return 10, 32, 32, 3, len(train), len(test)

    def decode(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """As torchvision reads them."""
        import numpy as np
        from torchvision.datasets import CIFAR10

        train, test = (CIFAR10(self.folder, train=split) for split in (True, False))
        return (
            train.data,
            np.array(train.targets, np.int64),
            test.data,
            np.array(test.targets, np.int64),
        )

    def fetch(self) -> None:
        """See `Published.fetch`."""
        from torchvision.datasets import CIFAR10

        CIFAR10(self.folder, download=True)
