"""Single picture files to arrays.

Pictures are decoded and resized with Pillow, and the arrays are kept, since that takes a while.
"""

from __future__ import annotations

import contextlib
import uuid
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import model_validator

from harness import Dataset, Folder, cache_folder
from plugins.datasets.published import Arrays
from plugins.parts.decoding import decode

Labelled = tuple[Path, int]
"""A picture and its label."""
NAMES = ("train_images", "train_labels", "test_images", "test_labels")
SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
Filter = Literal["bilinear", "bicubic", "lanczos", "box"]
DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""Errors of reading a file that is missing or damaged."""


def listed(folder: Path) -> list[Path]:
    """Return the pictures in a folder, sorted by name; hidden files are none."""
    pictures = []
    for path in folder.iterdir():
        hidden = path.name[0] == "."
        if path.suffix.lower() in SUFFIXES and not hidden:
            pictures.append(path)
    return sorted(pictures, key=lambda path: path.name)


def decoded(paths: Sequence[Path], size: int, channels: int, resample: Filter) -> np.ndarray:
    """Decode pictures to uint8 (n, size, size, channels).

    Raises ValueError for a file that `plugins.parts.decoding` refuses.
    """
    from PIL import Image  # late: a plan imports this module and decodes nothing

    images = np.empty((len(paths), size, size, channels), np.uint8)
    for number, path in enumerate(paths):
        whole = decode(path, "RGB" if channels == 3 else "L")
        if whole.size != (size, size):
            whole = whole.resize((size, size), Image.Resampling[resample.upper()])
        images[number] = np.asarray(whole).reshape(size, size, channels)
    return images


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
        self, train: Sequence[Labelled], test: Sequence[Labelled], size: int, channels: int
    ) -> Arrays:
        """Decode the pictures of both splits. Raises ValueError for what is no picture."""
        arrays = []
        for pairs in (train, test):
            paths = [path for path, _ in pairs]
            labels = [label for _, label in pairs]
            arrays.append(decoded(paths, size, channels, self.resample))
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
