"""Pictures in folders that the user brings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from harness import Facts, Folder, Pictures
from plugins.datasets.pictures import Labelled, Resized, listed
from plugins.datasets.published import Arrays, fingerprint


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
    """3 for colour, 1 for grey"""

    def facts(self) -> Facts:
        """List the folders, and take the checksums of all pictures.

        Raises ValueError where there are no pictures.
        """
        train, test = self._pairs()
        return Facts(
            classes=len(self._classes()),
            height=self.size,
            width=self.size,
            channels=self.channels,
            train_count=len(train),
            test_count=len(test),
            fingerprint=self._digest(),
        )

    def load(self) -> Pictures:
        """Decode and resize everything, or read what that gave before.

        Raises ValueError for what is no picture.
        """
        arrays = self.kept(f"folder-{self._digest()[:32]}", self._decode)
        return Pictures(*arrays)

    def _decode(self) -> Arrays:
        train, test = self._pairs()
        return self.decoded_pairs(train, test, self.size, self.channels)

    def _digest(self) -> str:
        # The numbers of the labels follow from the names of the folders, empty ones included.
        classes = [repr(name) for name in self._classes()]
        settings = [str(self.size), str(self.channels), self.resample, *classes]
        train, test = self._pairs()
        paths = [path for path, _ in (*train, *test)]
        return fingerprint("folder", paths, self.path, " ".join(settings))

    def _root(self) -> Path:
        if not self.path.is_dir():
            raise ValueError(
                f"there is no folder {self.path}; expected: one with train/<class>/*.png and "
                "test/<class>/*.png, beside the grid or in $BENCH_DATA"
            )
        train = self.path / "train"
        if train.is_dir():
            return train
        return self.path

    def _classes(self) -> list[str]:
        root = self._root()
        classes = _folders(root)
        if len(classes) < 2:
            raise ValueError(
                f"{root} has {len(classes)} sub-folders; put each class's pictures into one of its "
                "own"
            )
        return classes

    def _pairs(self) -> tuple[list[Labelled], list[Labelled]]:
        """Return (path, label) of the training and of the test pictures."""
        root = self._root()
        classes = self._classes()
        train = _labelled(root, classes)
        if not train:
            raise ValueError(
                f"{root} has no pictures in its sub-folders; mkdir and copy them to {root}/<class>/"
            )
        held = self.path / "test"
        if root == self.path or not held.is_dir():
            return train, []
        for name in _folders(held):
            if name not in classes:
                raise ValueError(
                    f"{held} has a class {name!r} that {root} has not; rename or remove it"
                )
        return train, _labelled(held, classes)


def _folders(folder: Path) -> list[str]:
    """Return the names of the folders in another, sorted; hidden ones are none."""
    names = []
    for path in folder.iterdir():
        hidden = path.name[0] == "."
        if path.is_dir() and not hidden:
            names.append(path.name)
    return sorted(names)


def _labelled(root: Path, classes: list[str]) -> list[Labelled]:
    pairs = []
    for label, name in enumerate(classes):
        folder = root / name
        if folder.is_dir():
            for path in listed(folder):
                pairs.append((path, label))
    return pairs
