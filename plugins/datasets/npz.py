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
ARRAYS = "train_images, train_labels, test_images, test_labels; either pair may be missing"
Shape = tuple[int, int, int, int]
"""(n, height, width, channels); n = 0 where a split is missing."""


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
    """number of classes; none: the largest label plus one"""

    def facts(self) -> Facts:
        """Read the arrays' headers and the labels.

        Raises ValueError where the file is not as the class says.
        """
        shapes = {}
        labels = {}
        with self._archive() as archive:
            for split in SPLITS:
                shapes[split] = self._image_shape(archive, split)
            for split in SPLITS:
                labels[split] = self._labels(archive, split, shapes[split][0])
        present = [shape for shape in shapes.values() if shape[0] > 0]
        height, width, channels = present[0][1:]
        if present[-1][1:] != (height, width, channels):
            raise self._wrong(
                f"test images have (height, width, channels) {shapes['test'][1:]}, training images "
                f"{(height, width, channels)}; they must be equal"
            )
        return Facts(
            classes=self._classes(labels),
            height=height,
            width=width,
            channels=channels,
            train_count=shapes["train"][0],
            test_count=shapes["test"][0],
            fingerprint=self._fingerprint(),
        )

    def load(self) -> Pictures:
        """Decode all arrays, with the checks of `facts`."""
        facts = self.facts()
        shape = (-1, facts.height, facts.width, facts.channels)
        images = {}
        labels = {}
        with self._archive() as archive:
            for split in SPLITS:
                images[split] = self._images(archive, split).reshape(shape)
                labels[split] = self._labels(archive, split, len(images[split]))
        return Pictures(images["train"], labels["train"], images["test"], labels["test"])

    # --- reading ----------------------------------------------------------------------------------

    def _wrong(self, sentence: str) -> ValueError:
        return ValueError(f"{self.path}: {sentence}")

    def _archive(self) -> zipfile.ZipFile:
        if not self.path.is_file():
            raise self._wrong(
                "no such file; expected: an .npz file beside the grid or in $BENCH_DATA, "
                'path = "data.npz"'
            )
        try:
            archive = zipfile.ZipFile(self.path)
        except Exception as error:
            # Some damage to an archive is no BadZipFile.
            raise self._wrong(
                f"not an .npz file ({error}); write one with numpy.savez: {ARRAYS}"
            ) from None
        names = sorted(name.removesuffix(".npy") for name in archive.namelist())
        missing = self._missing(names)
        if missing is not None:
            archive.close()
            held = ", ".join(names) or "nothing"
            raise self._wrong(f"no array {missing}; it holds {held}. Expected: {ARRAYS}")
        for name in names:
            split, _, content = name.rpartition("_")
            if content in ("images", "labels") and split not in SPLITS:
                archive.close()
                raise self._wrong(
                    f"{name} would not be read; leave it out, or add it to the training or the "
                    f"test pair. Expected: {ARRAYS}"
                )
        return archive

    @staticmethod
    def _missing(names: list[str]) -> str | None:
        """Return the first array that should be there; a pair may be missing as a whole."""
        expected = []
        for split in SPLITS:
            pair = [f"{split}_images", f"{split}_labels"]
            if not set(pair).isdisjoint(names):
                expected.extend(pair)
        if not expected:
            return "train_images"
        for name in expected:
            if name not in names:
                return name
        return None

    def _header(
        self, archive: zipfile.ZipFile, name: str
    ) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
        """Return shape and type of an array, without its content."""
        try:
            with self._open(archive, name) as stream:
                version = np.lib.format.read_magic(stream)
                if version == (1, 0):
                    header = np.lib.format.read_array_header_1_0(stream)
                else:
                    header = np.lib.format.read_array_header_2_0(stream)
        except Exception as error:
            # Zlib, zipfile, tokenize and numpy each have their own for a damaged file.
            raise self._damaged(name, error) from None
        shape, _, kind = header
        if kind.hasobject:
            raise self._wrong(
                f"{name} holds Python objects, which are never unpickled; store plain numbers"
            )
        return shape, kind

    def _array(self, archive: zipfile.ZipFile, name: str) -> NDArray[np.generic]:
        try:
            with self._open(archive, name) as stream:
                array: NDArray[np.generic] = np.lib.format.read_array(stream, allow_pickle=False)
        except Exception as error:
            raise self._damaged(name, error) from None
        return array

    @staticmethod
    def _open(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
        file = f"{name}.npy"
        if file in archive.namelist():
            return archive.open(file)
        return archive.open(name)

    def _damaged(self, name: str, error: Exception) -> ValueError:
        return self._wrong(
            f"{name} cannot be read ({error}); the file is damaged: write or fetch it again"
        )

    # --- checking ---------------------------------------------------------------------------------

    @staticmethod
    def _has(archive: zipfile.ZipFile, split: str) -> bool:
        names = archive.namelist()
        return f"{split}_images" in names or f"{split}_images.npy" in names

    def _image_shape(self, archive: zipfile.ZipFile, split: str) -> Shape:
        """Return the shape of a split's images, checked, with the channels where they are grey."""
        if not self._has(archive, split):
            return 0, 0, 0, 0
        name = f"{split}_images"
        shape, kind = self._header(archive, name)
        if kind != np.uint8:
            raise self._wrong(
                f"{name} is {kind}, not uint8 with values from 0 to 255; convert it before it is "
                "stored"
            )
        if len(shape) == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3):
            raise self._wrong(
                f"{name} has shape {shape}, channels first; store x.transpose(0, 2, 3, 1) instead"
            )
        full = shape
        if len(shape) == 3:
            full = (*shape, 1)
        if len(full) != 4 or full[3] not in (1, 3):
            raise self._wrong(
                f"{name} has shape {shape}; expected: (n, height, width, channels) with 1 or 3 "
                "channels, or (n, height, width)"
            )
        if 0 in full:
            raise self._wrong(
                f"{name} has shape {shape}: no pixel; leave an empty test set out, with its labels"
            )
        count, height, width, channels = full
        return count, height, width, channels

    def _images(self, archive: zipfile.ZipFile, split: str) -> NDArray[np.uint8]:
        if not self._has(archive, split):
            return np.empty(0, np.uint8)
        name = f"{split}_images"
        array = self._array(archive, name)
        if array.max() == 1:
            raise self._wrong(f"{name} holds 0 and 1 only, where 255 is white; multiply it by 255")
        return np.ascontiguousarray(array, dtype=np.uint8)

    def _labels(self, archive: zipfile.ZipFile, split: str, count: int) -> NDArray[np.int64]:
        """Return the labels of a split, checked against the number of its images."""
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
                f"{name} has shape {shape}; expected: ({count},), a label for each of "
                f"{split}_images"
            )
        labels = self._array(archive, name).astype(np.int64)
        if self.classes is None:
            outside = labels[labels < 0]
            right = "from 0 up"
        else:
            outside = labels[(labels < 0) | (labels >= self.classes)]
            right = f"0 to {self.classes - 1}, as classes = {self.classes}"
        if len(outside) > 0:
            raise self._wrong(f"{name} holds {outside[0]}; labels go {right}")
        return labels

    def _classes(self, labels: dict[str, NDArray[np.int64]]) -> int:
        """Return the number of classes: as given, else by the labels.

        A gap below the largest label must be vouched for by `classes`.
        """
        if self.classes is not None:
            return self.classes
        present = [part for part in labels.values() if len(part) > 0]
        classes = 1 + max(int(part.max()) for part in present)
        split = "train" if len(labels["train"]) > 0 else "test"
        numbers = np.arange(min(classes, 1 << 20))
        gaps = np.setdiff1d(numbers, labels[split])
        if len(gaps) > 0:
            raise self._wrong(
                f"{split}_labels holds no {gaps[0]}, but labels go up to {classes - 1}; count from "
                f"0 without gaps, or say that it is meant with classes = {classes}"
            )
        return classes

    def _fingerprint(self) -> str:
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
