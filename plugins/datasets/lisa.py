"""LISA's traffic signs."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from plugins.datasets.pictures import Box, Labelled, PictureFiles, decoded
from plugins.datasets.placed import Arrays

CORNERS = (
    "Upper left corner X",
    "Upper left corner Y",
    "Lower right corner X",
    "Lower right corner Y",
)
COLUMNS = ("Filename", "Annotation tag", *CORNERS, "Origin track")


@dataclass(frozen=True)
class Sign:
    """One row of the annotations."""

    path: Path
    """of the frame"""
    tag: str
    box: Box
    view: str
    """name of this view of a sign: a frame may show several signs"""
    track: str
    """name of all views of the sign together"""


class Lisa(PictureFiles):
    """LISA: traffic signs of the USA, the 18 most frequent of 47 kinds, cut out and resized.

    The root is the folder that signDatabasePublicFramesOnly.zip unpacks to: `allAnnotations.csv`,
    and the frames that it names in folders beside it. A sign is the annotated box of its frame.
    Classes are those with most signs, among equals the first by name, and are numbered in the order
    of their names.

    There is no official test set. As in DECK (5,635, 704 and 704 signs) a tenth is held out, as
    much of each class. DECK does not say how it was drawn; its counts fit a draw of single signs,
    the default here. But signs come from videos, and views of one sign in neighbouring frames are
    nearly alike: only if tracks are held out does no sign of the test set appear in training.
    """

    citation = (
        "Mogelmose et al., Vision-Based Traffic Sign Detection and Analysis for Intelligent Driver "
        "Assistance Systems, IEEE T-ITS 2012"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # 5,635 / 704 / 704; defenders have 5 % of the training set.
        "deck": {"validation": 704, "pool": 316, "pool_in_train": True},
    }
    mirrors: ClassVar[bool] = False
    called: ClassVar[str] = "lisa"
    home: ClassVar[str] = "lisa"
    place: ClassVar[str] = "allAnnotations.csv"
    source: ClassVar[str] = (
        "unpack signDatabasePublicFramesOnly.zip of the LISA Traffic Sign Dataset "
        "(cvrr.ucsd.edu), and name its folder as root"
    )

    classes: Annotated[int, Field(ge=2)] = 18
    """number of classes, those with most signs"""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """share of the signs that is the test set"""
    test_by: Literal["sign", "track"] = "sign"
    """whether single signs or all views of a sign together are held out"""

    def tables(self) -> list[Path]:
        """Return the annotations."""
        return [self.folder / self.place]

    def files(self) -> list[Path]:
        """Return the annotations and the frames, each once."""
        frames = {sign.path for sign in self._signs()}
        return [*self.tables(), *sorted(frames)]

    def settings(self) -> str:
        """See `Placed.settings`."""
        held = f"{self.test_share} {self.test_by} {self.split_seed}"
        return f"{self.size} {self.resample} {self.classes} {held}"

    def count_classes(self) -> int:
        """See `Lisa.classes`."""
        return self.classes

    def class_names(self) -> Sequence[str]:
        """Return the tags of the annotations."""
        return sorted({sign.tag for sign in self._signs()})

    def pairs(self) -> tuple[list[Labelled], list[Labelled]]:
        """Return (path of the frame, label) of both splits, in the order of the annotations."""
        train, test = self._split()
        return self._labelled(train), self._labelled(test)

    def make(self) -> Arrays:
        """Cut all signs out of their frames."""
        arrays = []
        for signs in self._split():
            paths = [sign.path for sign in signs]
            labels = [label for _, label in self._labelled(signs)]
            boxes = [sign.box for sign in signs]
            cut = _Boxes(boxes)
            arrays.append(decoded(paths, self.size, 3, self.resample, cut))
            arrays.append(np.array(labels, np.int64))
        return arrays[0], arrays[1], arrays[2], arrays[3]

    def _labelled(self, signs: list[Sign]) -> list[Labelled]:
        labels = {name: label for label, name in enumerate(self.class_names())}
        return [(sign.path, labels[sign.tag]) for sign in signs]

    def _signs(self) -> list[Sign]:
        """Read the signs of the most frequent kinds. Raises ValueError where a frame is missing."""
        signs = self._annotated()
        counts = Counter(sign.tag for sign in signs)
        if len(counts) < self.classes:
            raise ValueError(
                f"{self.folder / self.place} has signs of {len(counts)} kinds, and classes = "
                f"{self.classes} are asked for"
            )
        ranked = sorted(counts, key=lambda tag: (-counts[tag], tag))
        chosen = set(ranked[: self.classes])
        kept = [sign for sign in signs if sign.tag in chosen]
        frames = sorted({sign.path for sign in kept})
        absent = [path for path in frames if not path.is_file()]
        if absent:
            raise ValueError(
                f"{len(absent)} of {len(frames)} frames are missing, {absent[0]} first"
            )
        return kept

    def _annotated(self) -> list[Sign]:
        path = self.folder / self.place
        signs = []
        with path.open(newline="", encoding="utf-8") as stream:
            rows = csv.DictReader(stream, delimiter=";")
            found = rows.fieldnames or []
            for column in COLUMNS:
                if column not in found:
                    raise ValueError(
                        f"{path} has no column {column!r}; its first line should name "
                        f"{', '.join(COLUMNS)}, with semicolons between"
                    )
            for row in rows:
                signs.append(self._sign(row, f"{path}, line {rows.line_num}"))
        return signs

    def _sign(self, row: Mapping[str, str | None], at: str) -> Sign:
        words = [row[column] for column in COLUMNS]
        if None in words:
            raise ValueError(f"{at} is cut off")
        name, tag, *corners, track = [str(word) for word in words]
        try:
            left, upper, right, lower = [int(corner) for corner in corners]
        except ValueError:
            raise ValueError(f"{at}: the corners {corners} are no whole numbers") from None
        if left >= right or upper >= lower:
            raise ValueError(f"{at}: the box {(left, upper, right, lower)} is empty")
        box = (left, upper, right, lower)
        # Names are those of the annotations: where the frames lie is in no split.
        video = name.rpartition("/")[0]
        return Sign(self.folder / name, tag, box, f"{name} {box}", f"{video} {track}")

    def _split(self) -> tuple[list[Sign], list[Sign]]:
        """Hold out `test_share` of the signs, as much of each class as whole units allow.

        Where in its class a unit ends up is a hash of its name and `split_seed`, so that it is the
        same on every machine.
        """
        signs = self._signs()
        units: dict[tuple[str, str], list[int]] = {}
        for number, sign in enumerate(signs):
            unit = sign.view if self.test_by == "sign" else sign.track
            units.setdefault((sign.tag, unit), []).append(number)
        totals = Counter(sign.tag for sign in signs)
        before: Counter[str] = Counter()
        ranked = []
        for tag, unit in sorted(units, key=lambda key: self._draw(key[0], key[1])):
            members = units[tag, unit]
            middle = (before[tag] + len(members) / 2) / totals[tag]
            before[tag] += len(members)
            ranked.append((middle, tag, members))
        wanted = round(self.test_share * len(signs))
        held: set[int] = set()
        for _, _, members in sorted(ranked):
            if len(held) >= wanted:
                break
            held.update(members)
        train = [sign for number, sign in enumerate(signs) if number not in held]
        test = [sign for number, sign in enumerate(signs) if number in held]
        for tag in totals.keys() - {sign.tag for sign in train}:
            raise ValueError(f"no sign {tag!r} is left to train on; lower test_share")
        return train, test

    def _draw(self, tag: str, unit: str) -> str:
        return hashlib.sha256(f"{self.split_seed}\n{tag}\n{unit}".encode()).hexdigest()


class _Boxes:
    """The `Cut` that takes each picture's own box."""

    def __init__(self, boxes: Sequence[Box]) -> None:
        self.boxes = boxes

    def __call__(self, number: int, width: int, height: int) -> Box:
        """Return the box of a picture."""
        return self.boxes[number]
