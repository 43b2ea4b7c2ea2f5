"""Pictures in folders that the user brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from harness import Facts, Folder, Pictures
from plugins.datasets.listing import SUFFIXES, pictures_alone, shown, suffix
from plugins.datasets.pictures import Labelled, Resized
from plugins.datasets.placed import Arrays, fingerprint

SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval")
"""Names that folders of whole splits have, in small letters."""


class PictureFolder(Resized):
    """Pictures in `train/<class>/` and `test/<class>/` below a folder, resized to squares.

    Classes are the sub-folders of `train` and are numbered in the order of their names ("10" comes
    before "2"; the manifest of the data lists them); pictures come in the order of class and name.
    Without sub-folders `train` and `test` the classes lie in the folder itself and there is no test
    set, which is enough for somebody's out-of-distribution data.

    Each file is read as every viewer shows it, upright, or refused by its name: what is no picture,
    lies deeper or beside the classes, is animated or transparent. Only files that file managers
    hide are passed over. Each class needs a training picture.
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

        Raises ValueError, naming the file, for what is no picture.
        """
        arrays = self.kept(self._content, self._decode)
        return Pictures(*arrays)

    def class_names(self) -> Sequence[str]:
        """Return the names of the classes' folders."""
        return self._classes()

    def _content(self) -> str:
        # The number is that of the way in which pictures are decoded.
        return f"folder-2-{self._digest()[:32]}"

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
        splits = _splits(self.path)
        if "train" in splits:
            return self.path / "train"
        if splits:
            raise ValueError(
                f"{self.path} has a folder {splits[0]!r} but none called 'train'; rename it, or "
                "leave the folders of the classes alone there"
            )
        return self.path

    def _classes(self) -> list[str]:
        root = self._root()
        classes = _folders(root, alone=root != self.path)
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
        _refuse_empty(root, classes, train, "training")
        if root == self.path:
            return train, []
        return train, self._held(root, classes)

    def _held(self, root: Path, classes: list[str]) -> list[Labelled]:
        """Return (path, label) of the test pictures."""
        held = self.path / "test"
        if not held.is_dir():
            return []
        present = _folders(held, alone=True)
        for name in present:
            if name not in classes:
                raise ValueError(
                    f"{held} has a class {name!r} that {root} has not; rename or remove it"
                )
        test = _labelled(held, classes)
        if not test:
            raise ValueError(f"{held} has no pictures; remove it if there is no test set")
        _refuse_empty(held, present, test, "test")
        return test


def _splits(folder: Path) -> list[str]:
    """Return the names of the folders of splits in another.

    Raises ValueError for one beside `train` and `test`, whose pictures nobody would read.
    """
    names = [entry.name for entry in shown(folder) if entry.is_dir()]
    splits = [name for name in names if name.lower() in SPLITS]
    for name in splits:
        if name not in ("train", "test") and "train" in splits:
            raise ValueError(
                f"{folder / name} is neither 'train' nor 'test' and would not be read; rename it, "
                "or move it away"
            )
    return splits


def _folders(folder: Path, alone: bool) -> list[str]:
    """Return the names of the folders in another, sorted.

    Raises ValueError for a picture beside them, and where they lie `alone` for any other file.
    """
    names = []
    for entry in shown(folder):
        if entry.is_dir():
            names.append(entry.name)
        elif alone or suffix(entry.name) in SUFFIXES:
            raise ValueError(
                f"{entry.path} lies beside the folders of the classes and would not be read; put "
                "it into one of them, or remove it"
            )
    return names


def _labelled(root: Path, classes: list[str]) -> list[Labelled]:
    pairs = []
    for label, name in enumerate(classes):
        folder = root / name
        if folder.is_dir():
            for path in pictures_alone(folder):
                pairs.append((path, label))
    return pairs


def _refuse_empty(root: Path, classes: list[str], pairs: list[Labelled], split: str) -> None:
    """Raise ValueError for a class without pictures."""
    filled = {path.parent.name for path, _ in pairs}
    for name in classes:
        if name not in filled:
            raise ValueError(
                f"class {name!r} has no {split} picture: {root / name} is empty; fill or remove it"
            )
