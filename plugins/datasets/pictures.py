"""Single picture files to arrays: decoded and resized with Pillow, and kept, since that takes a
while.
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

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
NAMES = ("train_images", "train_labels", "test_images", "test_labels")
SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
Filter = Literal["bilinear", "bicubic", "lanczos", "box"]


def listed(folder: Path) -> list[Path]:
    """The pictures in a folder, sorted by name; hidden files are none."""
    found = (
        path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."
    )
    return sorted(found, key=lambda path: path.name)


def decoded(paths: Sequence[Path], size: int, channels: int, resample: Filter) -> np.ndarray:
    """uint8 (n, size, size, channels). Raises ValueError for a file that is no picture."""
    from PIL import Image

    images = np.empty((len(paths), size, size, channels), np.uint8)
    for number, path in enumerate(paths):
        try:
            with Image.open(path) as picture:
                if (
                    picture.mode[0] in "IF"
                ):  # what is above 255 would be cut off, and the picture white
                    raise OSError(f"its grey levels are no bytes but of mode {picture.mode}")
                whole = picture.convert("RGB" if channels == 3 else "L")
        except OSError as error:
            raise ValueError(
                f"{path} is no picture that Pillow can read ({error}); mend or remove it"
            ) from error
        if whole.size != (size, size):
            whole = whole.resize((size, size), Image.Resampling[resample.upper()])
        images[number] = np.asarray(whole).reshape(size, size, channels)
    return images


class Resized(Dataset):
    """A data set of single picture files, which are resized to squares and kept."""

    resample: Filter = "bilinear"
    """how they are resized; all of them average over what they shrink"""
    decoded_in: Folder | None = None
    """folder that resized pictures are kept in; none: `pictures` in the cache folder"""

    @model_validator(mode="after")
    def _choose(self) -> Self:
        # Stages know nothing of $BENCH_CACHE, so the folder is chosen when parameters are read.
        if self.decoded_in is None:
            object.__setattr__(self, "decoded_in", cache_folder() / "pictures")
        return self

    def kept(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """What `make` makes, read from `name.npz` in `decoded_in` if that was done before.

        A file that is damaged is made again; a folder that cannot be written to costs time only.
        """
        assert self.decoded_in is not None
        folder = self.decoded_in
        path = folder / f"{name}.npz"
        damaged = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
        with (
            contextlib.suppress(*damaged),
            path.open("rb") as stream,
            np.load(stream, allow_pickle=False) as found,
        ):
            return found[NAMES[0]], found[NAMES[1]], found[NAMES[2]], found[NAMES[3]]
        arrays = make()
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
