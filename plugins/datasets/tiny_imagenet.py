"""Tiny ImageNet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from plugins.datasets.listing import some_pictures
from plugins.datasets.pictures import Labelled, PictureFiles, Size


class TinyImageNet(PictureFiles):
    """Tiny ImageNet: 100,000 + 10,000 colour pictures, 64 x 64, 200 classes, in its own folders.

    The root is the folder tiny-imagenet-200 that the archive unpacks to. Classes are numbered in
    the order of their WordNet IDs, and come with 500 training pictures each. The official
    validation pictures, 50 a class, are the test set, since those called test have no labels.
    """

    citation = "Le and Yang, Tiny ImageNet Visual Recognition Challenge, CS 231N 2015"
    called: ClassVar[str] = "tiny-imagenet"
    home: ClassVar[str] = "tiny-imagenet-200"
    place: ClassVar[str] = "wnids.txt"
    source: ClassVar[str] = (
        "unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip, and name its folder as root"
    )

    size: Size = 64
    """height and width in pixels that pictures are resized to; they have 64"""
    test_set: bool = True
    """read the validation pictures as test set; false: training pictures alone, which is enough for
    a source of pictures
    """

    def tables(self) -> list[Path]:
        """Return the list of classes, and the labels of the test set."""
        classes = self.folder / self.place
        if self.test_set:
            return [classes, self._annotations]
        return [classes]

    def settings(self) -> str:
        """See `Placed.settings`."""
        return f"{self.size} {self.resample} {self.test_set}"

    def count_classes(self) -> int:
        """Count the WordNet IDs."""
        return len(self._ids())

    def class_names(self) -> Sequence[str]:
        """Return WordNet IDs, each with its first English word where `words.txt` has one."""
        path = self.folder / "words.txt"
        words = {}
        if path.is_file():
            for line in path.read_text().splitlines():
                name, _, meaning = line.partition("\t")
                words[name] = meaning.partition(",")[0]
        return [f"{name} {words.get(name, '')}".strip() for name in self._ids()]

    def pairs(self) -> tuple[list[Labelled], list[Labelled]]:
        """List training pictures in the order of class and name, test pictures as their table."""
        ids = self._ids()
        train = self._train(ids)
        if self.test_set:
            return train, self._test(ids)
        return train, []

    @property
    def _annotations(self) -> Path:
        return self.folder / "val" / "val_annotations.txt"

    def _ids(self) -> list[str]:
        ids = (self.folder / self.place).read_text().split()
        if len(ids) < 2 or len(ids) != len(set(ids)):
            raise ValueError(
                f"{self.folder / self.place} should hold a WordNet ID a line, each once; it has "
                f"{len(ids)}, {len(set(ids))} of them different"
            )
        return sorted(ids)

    def _train(self, ids: list[str]) -> list[Labelled]:
        pairs = []
        most = 0
        counts = {}
        for label, name in enumerate(ids):
            folder = self.folder / "train" / name / "images"
            pictures = some_pictures(folder)
            counts[folder] = len(pictures)
            most = max(most, len(pictures))
            for path in pictures:
                pairs.append((path, label))
        for folder, count in counts.items():
            if count < most:
                raise ValueError(f"{folder} has {count} pictures, and other classes have {most}")
        return pairs

    def _test(self, ids: list[str]) -> list[Labelled]:
        """Read the table: picture, WordNet ID and a box, with tabs between."""
        if not self._annotations.is_file():
            raise ValueError(
                f"there is no file {self._annotations}, which has the labels; folders of classes "
                "below val are somebody's rearrangement, and are not read"
            )
        labels = {name: label for label, name in enumerate(ids)}
        folder = self.folder / "val" / "images"
        pictures = some_pictures(folder)
        present = {path.name for path in pictures}
        pairs = []
        for number, line in enumerate(self._annotations.read_text().splitlines(), start=1):
            at = f"{self._annotations}, line {number}"
            name, wnid, *_ = [*line.split("\t"), ""]
            if wnid not in labels:
                raise ValueError(f"{at}: {wnid!r} is no class of wnids.txt")
            if name not in present:
                raise ValueError(f"{at}: there is no picture {folder / name}")
            pairs.append((folder / name, labels[wnid]))
        if len(pairs) != len(present):
            raise ValueError(
                f"{folder} has {len(present)} pictures, and {self._annotations} {len(pairs)} lines"
            )
        return pairs
