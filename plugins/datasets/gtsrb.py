"""The German Traffic Sign Recognition Benchmark."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from plugins.datasets.pictures import Resized, decoded, listed
from plugins.datasets.published import Published, fingerprint

if TYPE_CHECKING:
    import numpy as np

CLASSES = 43
ARCHIVE = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/GTSRB_Final_Training_Images.zip"
PLACES = {"final": "GTSRB/Final_Training/Images", "online": "GTSRB/Training"}


class Gtsrb(Published, Resized):
    """GTSRB: traffic signs in 43 classes, resized to squares; 12,630 test images, in torchvision's
    folders.

    The papers train on the 39,209 images of the final training set. torchvision fetches the 26,640
    of the competition's first round; both can be chosen.
    """

    citation = "Stallkamp et al., Man vs. Computer: Benchmarking Machine Learning Algorithms, Neural Networks 2012"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # The defender's 5,000 come from the test set; 7,630 are left of it.
        "bcu": {"pool": 5000, "pool_from": "test"},
        # 35,289 / 3,920 / 12,630; defenders have 5 % of the training set.
        "deck": {"validation": 3920, "pool": 1960, "pool_in_train": True},
        # A hold-out of 5 %; PIL's default filter.
        "trap": {"pool": 1960, "resample": "bicubic"},
    }
    called: ClassVar[str] = "gtsrb"
    place: ClassVar[str] = "gtsrb/GT-final_test.csv"

    edition: Literal["final", "online"] = "final"
    """the training set: all 39,209 images, or the 26,640 that torchvision fetches"""
    size: Annotated[int, Field(ge=8, le=512)] = 32
    """height and width in pixels that pictures are resized to"""

    @property
    def base(self) -> Path:
        """The folder that torchvision uses."""
        return self.folder / "gtsrb"

    def files(self) -> list[Path]:
        """All pictures, and the labels of the test pictures."""
        return [
            *(path for path, _ in self._train()),
            self.folder / self.place,
            *(path for path, _ in self._test()),
        ]

    def flags(self) -> tuple[str, ...]:
        """See `Published.flags`."""
        return ("--online",) if self.edition == "online" else ()

    def settings(self) -> str:
        """See `Published.settings`."""
        return f"{self.edition} {self.size} {self.resample}"

    def measure(self) -> tuple[int, int, int, int, int, int]:
        """By listing folders."""
        return CLASSES, self.size, self.size, 3, len(self._train()), len(self._test())

    def decode(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Pictures in the order of class and name; the test set in the order of its table."""
        name = f"gtsrb-{fingerprint(self.called, self.files(), self.folder, self.settings())[:32]}"
        return self.kept(name, self._decode)

    def _decode(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        import numpy as np

        arrays = []
        for pairs in (self._train(), self._test()):
            arrays.append(decoded([path for path, _ in pairs], self.size, 3, self.resample))
            arrays.append(np.array([label for _, label in pairs], np.int64))
        return arrays[0], arrays[1], arrays[2], arrays[3]

    def _train(self) -> list[tuple[Path, int]]:
        folder = self.base / PLACES[self.edition]
        classes = [folder / f"{label:05}" for label in range(CLASSES)]
        return [(path, label) for label, place in enumerate(classes) for path in listed(place)]

    def _test(self) -> list[tuple[Path, int]]:
        images = self.base / "GTSRB/Final_Test/Images"
        with (self.folder / self.place).open(newline="") as stream:
            rows = csv.DictReader(stream, delimiter=";", skipinitialspace=True)
            return [(images / row["Filename"], int(row["ClassId"])) for row in rows]

    def fetch(self) -> None:
        """See `Published.fetch`."""
        from torchvision.datasets import GTSRB
        from torchvision.datasets.utils import download_and_extract_archive

        whole = self.base / PLACES["final"]
        if self.edition == "online":
            GTSRB(self.folder, split="train", download=True)
        elif not whole.is_dir():
            self.base.mkdir(exist_ok=True)
            # Beside its place, and then moved there: what was interrupted would pass for a smaller
            # training set.
            with tempfile.TemporaryDirectory(dir=self.base, prefix=".partial-") as partial:
                download_and_extract_archive(ARCHIVE, download_root=partial)
                whole.parent.mkdir(parents=True, exist_ok=True)
                (Path(partial) / PLACES["final"]).rename(whole)
        GTSRB(self.folder, split="test", download=True)
