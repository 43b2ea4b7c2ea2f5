"""Single picture files to arrays.

Pictures are decoded and resized with Pillow, and the arrays are kept, since that takes a while.
"""

from __future__ import annotations

import contextlib
import uuid
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from harness import Dataset, Folder, cache_folder
from plugins.datasets.placed import Arrays, Placed
from plugins.parts.decoding import decode

Labelled = tuple[Path, int]
"""A picture and its label."""
Box = tuple[int, int, int, int]
"""A part of a picture, in pixels: left, upper, right, lower; the last two lie outside."""
Cut = Callable[[int, int, int], Box]
"""What part of a picture is read, by its number, width and height."""
NAMES = ("train_images", "train_labels", "test_images", "test_labels")
Filter = Literal["bilinear", "bicubic", "lanczos", "box"]
Size = Annotated[int, Field(ge=8, le=512)]
"""Height and width that the pictures of a published set are resized to."""
DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""Errors of reading a file that is missing or damaged."""


def decoded(
    paths: Sequence[Path],
    size: int,
    channels: int,
    resample: Filter,
    cut: Cut | None = None,
) -> np.ndarray:
    """Decode pictures to uint8 (n, size, size, channels), or the part of each that `cut` gives.

    The result is filled picture by picture, so that memory holds it and one picture. Raises
    ValueError for a file that `plugins.parts.decoding` refuses, and for a part beyond its picture.
    """
    from PIL import Image  # late: a plan imports this module and decodes nothing

    images = np.empty((len(paths), size, size, channels), np.uint8)
    for number, path in enumerate(paths):
        picture = decode(path, "RGB" if channels == 3 else "L")
        if cut is not None:
            width, height = picture.size
            box = cut(number, width, height)
            if box[0] < 0 or box[1] < 0 or box[2] > width or box[3] > height:
                raise ValueError(
                    f"{path} has {width} x {height} pixels, and the part to be read, {box}, lies "
                    "beyond them"
                )
            # Before it is resized, which would else look at what lies beside the part.
            picture = picture.crop(box)
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling[resample.upper()])
        images[number] = np.asarray(picture).reshape(size, size, channels)
    return images


def middle(number: int, width: int, height: int) -> Box:
    """Return the largest square in the middle of a picture, as a `Cut`."""
    side = min(width, height)
    left = (width - side) // 2
    upper = (height - side) // 2
    return left, upper, left + side, upper + side


class Resized(Dataset):
    """A data set of single picture files, which are resized to squares and kept."""

    resample: Filter = "bilinear"
    """filter of the resizing; all of them average over what they shrink"""
    decoded_in: Folder | None = None
    """folder that resized pictures are kept in; none: `pictures` in the cache folder"""

    @model_validator(mode="after")
    def _choose(self) -> Self:
        # Stages know nothing of $BENCH_CACHE, so the folder is chosen when parameters are read.
        if self.decoded_in is None:
            object.__setattr__(self, "decoded_in", cache_folder() / "pictures")
        return self

    def decoded_pairs(
        self,
        train: Sequence[Labelled],
        test: Sequence[Labelled],
        size: int,
        channels: int,
        cut: Cut | None = None,
    ) -> Arrays:
        """Decode the pictures of both splits. Raises ValueError for what is no picture."""
        arrays = []
        for pairs in (train, test):
            paths = [path for path, _ in pairs]
            labels = [label for _, label in pairs]
            arrays.append(decoded(paths, size, channels, self.resample, cut))
            arrays.append(np.array(labels, np.int64))
        return arrays[0], arrays[1], arrays[2], arrays[3]

    def kept(self, content: Callable[[], str], make: Callable[[], Arrays]) -> Arrays:
        """Return what `make` makes of files, read from `decoded_in` if it was made before.

        `content` names what lies in the files; where that changes while they are decoded, nothing
        is kept. A kept file that is damaged is made again; a folder that cannot be written to costs
        time only. Raises ValueError where the files changed.
        """
        assert self.decoded_in is not None
        folder = self.decoded_in
        name = content()
        path = folder / f"{name}.npz"
        with (
            contextlib.suppress(*DAMAGE),
            path.open("rb") as stream,
            np.load(stream, allow_pickle=False) as archive,
        ):
            return tuple(archive[name] for name in NAMES)

        arrays = make()
        if content() != name:
            raise ValueError("pictures changed while they were read; run it again")
        partial = folder / f".{name}.{uuid.uuid4().hex}.npz"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                named: dict[str, Any] = dict(zip(NAMES, arrays, strict=True))
                np.savez(partial, **named)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        return arrays


class PictureFiles(Placed, Resized):
    """A published data set of single colour pictures, each a file of its own.

    Subclasses say which pictures there are, and what else is read.
    """

    size: Size = 32
    """height and width in pixels that pictures are resized to"""

    # --- for subclasses ---------------------------------------------------------------------------

    def pairs(self) -> tuple[list[Labelled], list[Labelled]]:
        """Return (path, label) of the training and of the test pictures.

        Raises ValueError where one is missing.
        """
        raise NotImplementedError

    def tables(self) -> list[Path]:
        """Return the files that labels and splits are read from, if any."""
        return []

    def count_classes(self) -> int:
        """Return the number of classes."""
        raise NotImplementedError

    def make(self) -> Arrays:
        """Decode all pictures."""
        train, test = self.pairs()
        return self.decoded_pairs(train, test, self.size, 3)

    # --- see `Placed` -----------------------------------------------------------------------------

    def files(self) -> list[Path]:
        """Return all pictures and tables."""
        train, test = self.pairs()
        pictures = [path for path, _ in train]
        held = [path for path, _ in test]
        return [*pictures, *self.tables(), *held]

    def settings(self) -> str:
        """See `Placed.settings`."""
        return f"{self.size} {self.resample}"

    def measure(self) -> tuple[int, int, int, int, int, int]:
        """Count without decoding a picture."""
        train, test = self.pairs()
        return self.count_classes(), self.size, self.size, 3, len(train), len(test)

    def decode(self) -> Arrays:
        """Decode and resize everything, or read what that gave before."""
        return self.kept(self._name, self.make)

    def _name(self) -> str:
        return f"{self.called}-{self.content()[:32]}"
