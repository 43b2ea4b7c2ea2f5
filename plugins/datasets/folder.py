"""Pictures in folders that the user brings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from harness import Facts, Folder, Pictures
from plugins.datasets.pictures import Resized, decoded, listed
from plugins.datasets.published import fingerprint

if TYPE_CHECKING:
    import numpy as np

Pair = tuple[Path, int]


class PictureFolder(Resized):
    """Pictures in `train/<class>/` and `test/<class>/` below a folder, resized to squares.

    Classes are the sub-folders of `train` and are numbered in the order of their names; pictures
    come in the order of class and name. Without a sub-folder `train` the classes lie in the folder
    itself and there is no test set, which is enough for somebody's out-of-distribution data.
    """

    path: Folder
    """the folder; keyed by the content of its pictures"""
    size: Annotated[int, Field(ge=4, le=1024)] = 32
    """height and width in pixels that pictures are resized to"""
    channels: Literal[1, 3] = 3
    """3: colour, 1: grey"""

    def facts(self) -> Facts:
        """By listing folders, and the checksums of all pictures. Raises ValueError where there are
        no pictures.
        """
        train, test = self._pairs()
        return Facts(
            len(self._classes()),
            self.size,
            self.size,
            self.channels,
            len(train),
            len(test),
            self._digest(),
        )

    def load(self) -> Pictures:
        """Decode and resize everything, or read what that gave before. Raises ValueError for what
        is no picture.
        """
        return Pictures(*self.kept(f"folder-{self._digest()[:32]}", self._decode))

    def _decode(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        import numpy as np

        arrays = []
        for pairs in self._pairs():
            arrays.append(
                decoded([path for path, _ in pairs], self.size, self.channels, self.resample)
            )
            arrays.append(np.array([label for _, label in pairs], np.int64))
        return arrays[0], arrays[1], arrays[2], arrays[3]

    def _digest(self) -> str:
        # The numbers of the labels follow from the names of the folders, empty ones included.
        names = " ".join(
            [str(self.size), str(self.channels), self.resample, *map(repr, self._classes())]
        )
        train, test = self._pairs()
        return fingerprint("folder", [path for path, _ in (*train, *test)], self.path, names)

    def _root(self) -> Path:
        if not self.path.is_dir():
            raise ValueError(
                f"there is no folder {self.path}; wanted: one with train/<class>/*.png and test/<class>/*.png, beside "
                "the grid or in $BENCH_DATA"
            )
        return self.path / "train" if (self.path / "train").is_dir() else self.path

    def _classes(self) -> list[str]:
        classes = _folders(self._root())
        if len(classes) < 2:
            raise ValueError(
                f"{self._root()} has {len(classes)} sub-folders; put each class's pictures into one of its own"
            )
        return classes

    def _pairs(self) -> tuple[list[Pair], list[Pair]]:
        """(path, label) of the training and the test pictures."""
        root, classes = self._root(), self._classes()
        train = _labelled(root, classes)
        if not train:
            raise ValueError(
                f"{root} has no pictures in its sub-folders; mkdir and copy them to {root}/<class>/"
            )
        held = self.path / "test"
        if root == self.path or not held.is_dir():
            return train, []
        if strange := [name for name in _folders(held) if name not in classes]:
            raise ValueError(
                f"{held} has a class {strange[0]!r} that {root} has not; rename or remove it"
            )
        return train, _labelled(held, classes)


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def _labelled(root: Path, classes: list[str]) -> list[Pair]:
    present = [(root / name, label) for label, name in enumerate(classes) if (root / name).is_dir()]
    return [(path, label) for folder, label in present for path in listed(folder)]
