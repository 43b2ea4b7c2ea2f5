"""CelebA in eight classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from plugins.datasets.pictures import Labelled, PictureFiles, Size
from plugins.datasets.published import Published, torchvision_datasets

ATTRIBUTES = ("Heavy_Makeup", "Smiling", "Mouth_Slightly_Open")
"""the attributes that make a label, the one worth 4 first"""
TRAIN, VALID, TEST = "0", "1", "2"
"""words of the official partition"""


class CelebA8(Published, PictureFiles):
    """CelebA: faces in eight classes of makeup, smile and open mouth, resized to squares.

    The label is 4 for heavy makeup, plus 2 for a smile, plus 1 for a slightly open mouth. That is
    how WaNet's code numbers them, whose victims DECK takes; the papers name the attributes in
    another order. The 162,770 training and 19,962 test pictures of the official partition are read
    from torchvision's files; its 19,867 validation pictures are not, as in WaNet. Whole pictures of
    178 x 218 pixels are resized, without a crop.
    """

    citation = "Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Sizes and validation are not stated; defenders have 5 % of the training set.
        "deck": {"pool": 8138, "pool_in_train": True},
    }
    known_classes: ClassVar[tuple[str, ...]] = (
        "none",
        "open",
        "smile",
        "smile+open",
        "makeup",
        "makeup+open",
        "makeup+smile",
        "makeup+smile+open",
    )
    called: ClassVar[str] = "celeba8"
    place: ClassVar[str] = "celeba/list_attr_celeba.txt"

    size: Size = 64
    """height and width in pixels that pictures are resized to; WaNet has 64"""

    @property
    def base(self) -> Path:
        """The folder that torchvision uses."""
        return self.folder / "celeba"

    def tables(self) -> list[Path]:
        """Return attributes and partition."""
        return [self.folder / self.place, self.base / "list_eval_partition.txt"]

    def count_classes(self) -> int:
        """Return 8."""
        return len(self.known_classes)

    def pairs(self) -> tuple[list[Labelled], list[Labelled]]:
        """List pictures in the order of the tables."""
        labels = self._labels()
        parts = self._parts()
        if parts.keys() != labels.keys():
            (name, *_) = sorted(parts.keys() ^ labels.keys())
            raise ValueError(f"{name} stands in one of {_either(self.tables())} alone")
        folder = self.base / "img_align_celeba"
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}; unpack img_align_celeba.zip there")
        present = {path.name for path in folder.iterdir()}
        train = []
        test = []
        absent = []
        for name, part in parts.items():
            if part == VALID:
                continue
            if name not in present:
                absent.append(name)
            pair = (folder / name, labels[name])
            if part == TRAIN:
                train.append(pair)
            else:
                test.append(pair)
        if absent:
            raise ValueError(
                f"{folder} lacks {len(absent)} of {len(train) + len(test)} pictures, "
                f"{absent[0]} first; unpack img_align_celeba.zip there"
            )
        return train, test

    def _labels(self) -> dict[str, int]:
        """Return the label of each picture: a line with the count, one with the names, the rows."""
        path = self.folder / self.place
        lines = path.read_text().splitlines()
        names = lines[1].split() if len(lines) > 1 else []
        for attribute in ATTRIBUTES:
            if attribute not in names:
                raise ValueError(f"{path}, line 2: there is no attribute {attribute}")
        # The first column is the picture's name.
        columns = [names.index(attribute) + 1 for attribute in ATTRIBUTES]
        labels = {}
        for number, line in enumerate(lines[2:], start=3):
            words = line.split()
            if len(words) != len(names) + 1:
                raise ValueError(
                    f"{path}, line {number}: expected a picture and {len(names)} attributes, found "
                    f"{len(words)} words"
                )
            label = 0
            for column in columns:
                if words[column] not in ("1", "-1"):
                    raise ValueError(
                        f"{path}, line {number}: expected 1 or -1, found {words[column]!r}"
                    )
                label = 2 * label + (words[column] == "1")
            labels[words[0]] = label
        if lines[0].strip() != str(len(labels)):
            raise ValueError(
                f"{path} has {len(labels)} pictures, and its first line says {lines[0].strip()!r}"
            )
        return labels

    def _parts(self) -> dict[str, str]:
        """Return the part of the official partition that each picture is in."""
        path = self.base / "list_eval_partition.txt"
        parts = {}
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            name, _, part = line.strip().partition(" ")
            if part not in (TRAIN, VALID, TEST):
                raise ValueError(
                    f"{path}, line {number}: expected a picture and 0, 1 or 2, found {line!r}"
                )
            parts[name] = part
        return parts

    def fetch(self) -> None:
        """See `Published.fetch`; torchvision needs gdown for it."""
        torchvision_datasets().CelebA(self.folder, download=True)


def _either(paths: list[Path]) -> str:
    return " and ".join(str(path) for path in paths)
