"""Pictures from a NumPy archive that the user brings."""

from __future__ import annotations

import hashlib
import zipfile
from typing import IO, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from harness import Dataset, Facts, File, Pictures

SPLITS = ("train", "test")
WANTED = "train_images, train_labels, test_images, test_labels; either pair may be missing"


class Npz(Dataset):
    """Pictures in an .npz file: arrays train_images, train_labels, test_images, test_labels.

    Images are uint8, (n, height, width, channels) with 1 or 3 channels, or (n, height, width) for
    grey ones; labels are integers from 0. The test pair may be missing where the pictures are only
    somebody's out-of-distribution data, the training pair where victims come from elsewhere. Arrays
    of Python objects are refused: they would be unpickled.
    """

    path: File
    """the file; keyed by its content"""
    classes: Annotated[int, Field(ge=2)] | None = None
    """how many classes there are; none: the largest label plus one"""

    def facts(self) -> Facts:
        """From the arrays' headers and the labels. Raises ValueError where the file is not as the
        class says.
        """
        with self._archive() as archive:
            shapes = {split: self._image_shape(archive, split) for split in SPLITS}
            labels = {split: self._labels(archive, split, shapes[split][0]) for split in SPLITS}
        there = [shape for shape in shapes.values() if shape[0]]
        height, width, channels = there[0][1:]
        if there[-1][1:] != (height, width, channels):
            raise self._wrong(
                f"test images have (height, width, channels) {shapes['test'][1:]}, training images "
                f"{(height, width, channels)}; they must be equal"
            )
        return Facts(
            self._classes(labels),
            height,
            width,
            channels,
            shapes["train"][0],
            shapes["test"][0],
            self._fingerprint(),
        )

    def load(self) -> Pictures:
        """Decode all arrays, with the checks of `facts`."""
        facts = self.facts()
        shape = (-1, facts.height, facts.width, facts.channels)
        with self._archive() as archive:
            images = {split: self._images(archive, split).reshape(shape) for split in SPLITS}
            labels = {split: self._labels(archive, split, len(images[split])) for split in SPLITS}
        return Pictures(images["train"], labels["train"], images["test"], labels["test"])

    # --- reading ----------------------------------------------------------------------------------

    def _wrong(self, sentence: str) -> ValueError:
        return ValueError(f"{self.path}: {sentence}")

    def _archive(self) -> zipfile.ZipFile:
        if not self.path.is_file():
            raise self._wrong(
                'no such file; wanted: an .npz file beside the grid or in $BENCH_DATA, path = "data.npz"'
            )
        try:
            archive = zipfile.ZipFile(self.path)
        except zipfile.BadZipFile:
            raise self._wrong(f"not an .npz file; write one with numpy.savez: {WANTED}") from None
        names = sorted(name.removesuffix(".npy") for name in archive.namelist())
        if missing := self._missing(names):
            archive.close()
            raise self._wrong(
                f"no array {missing}; it holds {', '.join(names) or 'nothing'}. Wanted: {WANTED}"
            )
        return archive

    @staticmethod
    def _missing(names: list[str]) -> str | None:
        """The first array that should be there; either pair may be missing as a whole."""
        pairs = [(f"{split}_images", f"{split}_labels") for split in SPLITS]
        begun = [pair for pair in pairs if not set(pair).isdisjoint(names)] or pairs[:1]
        return next((name for pair in begun for name in pair if name not in names), None)

    def _header(
        self, archive: zipfile.ZipFile, name: str
    ) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
        """Shape and type of an array, without its content."""
        with self._open(archive, name) as stream:
            try:
                version = np.lib.format.read_magic(stream)
                read = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, _, kind = read(stream)
            except (
                Exception
            ) as error:  # zlib, zipfile, tokenize and numpy each have their own for a damaged file
                raise self._damaged(name, error) from None
        if kind.hasobject:
            raise self._wrong(
                f"{name} holds Python objects, which are never unpickled; store plain numbers"
            )
        return shape, kind

    def _array(self, archive: zipfile.ZipFile, name: str) -> NDArray[np.generic]:
        with self._open(archive, name) as stream:
            try:
                array: NDArray[np.generic] = np.lib.format.read_array(stream, allow_pickle=False)
            except Exception as error:
                raise self._damaged(name, error) from None
        return array

    @staticmethod
    def _open(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
        return archive.open(f"{name}.npy" if f"{name}.npy" in archive.namelist() else name)

    def _damaged(self, name: str, error: Exception) -> ValueError:
        return self._wrong(
            f"{name} cannot be read ({error}); the file is damaged: write or fetch it again"
        )

    # --- checking ---------------------------------------------------------------------------------

    @staticmethod
    def _has(archive: zipfile.ZipFile, split: str) -> bool:
        return not {f"{split}_images", f"{split}_images.npy"}.isdisjoint(archive.namelist())

    def _image_shape(self, archive: zipfile.ZipFile, split: str) -> tuple[int, int, int, int]:
        """(n, height, width, channels) of a split, n = 0 where it is missing."""
        if not self._has(archive, split):
            return 0, 0, 0, 0
        name = f"{split}_images"
        shape, kind = self._header(archive, name)
        if kind != np.uint8:
            raise self._wrong(
                f"{name} is {kind}, not uint8 with values from 0 to 255; convert it before it is stored"
            )
        if len(shape) == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3):
            raise self._wrong(
                f"{name} has shape {shape}, channels first; store x.transpose(0, 2, 3, 1) instead"
            )
        full = (*shape, 1) if len(shape) == 3 else shape
        if len(full) != 4 or full[3] not in (1, 3):
            raise self._wrong(
                f"{name} has shape {shape}; wanted: (n, height, width, channels) with 1 or 3 channels, "
                "or (n, height, width)"
            )
        if 0 in full:
            raise self._wrong(
                f"{name} has shape {shape}: no pixel; leave an empty test set out, with its labels"
            )
        return full[0], full[1], full[2], full[3]

    def _images(self, archive: zipfile.ZipFile, split: str) -> NDArray[np.uint8]:
        if not self._has(archive, split):
            return np.empty(0, np.uint8)
        return np.ascontiguousarray(self._array(archive, f"{split}_images"), dtype=np.uint8)

    def _labels(self, archive: zipfile.ZipFile, split: str, count: int) -> NDArray[np.int64]:
        """Labels of a split, checked against the number of its images."""
        if not self._has(archive, split):
            return np.empty(0, np.int64)
        name = f"{split}_labels"
        shape, kind = self._header(archive, name)
        if kind.kind not in "iu":
            raise self._wrong(
                f"{name} is {kind}; labels are whole numbers from 0: store them as int64"
            )
        if shape != (count,):
            raise self._wrong(
                f"{name} has shape {shape}; wanted: ({count},), a label for each of {split}_images"
            )
        labels = self._array(archive, name).astype(np.int64)
        bound = self.classes or int(labels.max()) + 1
        outside = labels[(labels < 0) | (labels >= bound)]
        if len(outside):
            right = (
                f"0 to {self.classes - 1}, as classes = {self.classes}"
                if self.classes
                else "from 0 up"
            )
            raise self._wrong(f"{name} holds {outside[0]}; labels go {right}")
        return labels

    def _classes(self, labels: dict[str, NDArray[np.int64]]) -> int:
        """As given, else from the labels; a gap below the largest one must be vouched for by
        `classes`.
        """
        if self.classes:
            return self.classes
        classes = 1 + max(int(part.max()) for part in labels.values() if len(part))
        split = "train" if len(labels["train"]) else "test"
        gaps = np.setdiff1d(np.arange(min(classes, 1 << 20)), labels[split])
        if len(gaps):
            raise self._wrong(
                f"{split}_labels holds no {gaps[0]}, but labels go up to {classes - 1}; count from 0 without gaps, or "
                f"say that it is meant with classes = {classes}"
            )
        return classes

    def _fingerprint(self) -> str:
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
