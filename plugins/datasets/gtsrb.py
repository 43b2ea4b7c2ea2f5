"""The German Traffic Sign Recognition Benchmark."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from plugins.datasets.listing import listed
from plugins.datasets.pictures import Labelled, PictureFiles
from plugins.datasets.published import Published, torchvision_datasets

CLASSES = 43
ARCHIVE = (
    "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
    "GTSRB_Final_Training_Images.zip"
)
PLACES = {"final": "GTSRB/Final_Training/Images", "online": "GTSRB/Training"}
"""folder of the training images of each edition"""


class Gtsrb(Published, PictureFiles):
    """GTSRB: traffic signs in 43 classes, resized to squares, in torchvision's folders.

    The papers train on the 39,209 images of the final training set. torchvision fetches the 26,640
    of the competition's first round; both can be chosen. There are 12,630 test images.
    """

    citation = (
        "Stallkamp et al., Man vs. Computer: Benchmarking Machine Learning Algorithms, Neural "
        "Networks 2012"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # The defender's 5,000 come from the test set; 7,630 are left of it.
        "bcu": {"pool": 5000, "pool_from": "test"},
        # 35,289 / 3,920 / 12,630; defenders have 5 % of the training set.
        "deck": {"validation": 3920, "pool": 1960, "pool_in_train": True},
        # A hold-out of 5 %; PIL's default filter.
        "trap": {"pool": 1960, "resample": "bicubic"},
    }
    mirrors: ClassVar[bool] = False
    called: ClassVar[str] = "gtsrb"
    place: ClassVar[str] = "gtsrb/GT-final_test.csv"

    edition: Literal["final", "online"] = "final"
    """the training set: all 39,209 images, or the 26,640 that torchvision fetches"""

    @property
    def base(self) -> Path:
        """The folder that torchvision uses."""
        return self.folder / "gtsrb"

    def tables(self) -> list[Path]:
        """Return the labels of the test pictures."""
        return [self.folder / self.place]

    def count_classes(self) -> int:
        """Return the number of signs."""
        return CLASSES

    def flags(self) -> tuple[str, ...]:
        """See `Published.flags`."""
        if self.edition == "online":
            return ("--online",)
        return ()

    def settings(self) -> str:
        """See `Placed.settings`."""
        return f"{self.edition} {self.size} {self.resample}"

    def pairs(self) -> tuple[list[Labelled], list[Labelled]]:
        """List pictures in the order of class and name; the test set in that of its table."""
        return self._train(), self._test()

    def _train(self) -> list[Labelled]:
        folder = self.base / PLACES[self.edition]
        pairs = []
        for label in range(CLASSES):
            pictures = listed(folder / f"{label:05}")
            if not pictures:
                raise ValueError(f"{folder / f'{label:05}'} has no pictures")
            for path in pictures:
                pairs.append((path, label))
        return pairs

    def _test(self) -> list[Labelled]:
        images = self.base / "GTSRB/Final_Test/Images"
        with (self.folder / self.place).open(newline="") as stream:
            rows = csv.DictReader(stream, delimiter=";", skipinitialspace=True)
            return [(images / row["Filename"], int(row["ClassId"])) for row in rows]

    def fetch(self) -> None:
        """See `Published.fetch`."""
        datasets = torchvision_datasets()
        if self.edition == "online":
            datasets.GTSRB(self.folder, split="train", download=True)
        elif not (self.base / PLACES["final"]).is_dir():
            self._fetch_final()
        datasets.GTSRB(self.folder, split="test", download=True)

    def _fetch_final(self) -> None:
        place = self.base / PLACES["final"]
        self.base.mkdir(exist_ok=True)
        # Beside its place, and then moved there: what was interrupted would pass for a smaller
        # training set.
        with tempfile.TemporaryDirectory(dir=self.base, prefix=".partial-") as partial:
            utils = torchvision_datasets().utils
            utils.download_and_extract_archive(ARCHIVE, download_root=partial)
            place.parent.mkdir(parents=True, exist_ok=True)
            whole = Path(partial) / PLACES["final"]
            whole.rename(place)
