"""Data sets whose files lie in a known place below a folder, and their fingerprints for keys."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from pydantic import model_validator

from harness import Dataset, Facts, Folder, Pictures, cache_folder

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Training images (uint8 NHWC), training labels (int64), test images, test labels."""


class Placed(Dataset):
    """A data set whose files lie in a known place below a folder.

    Subclasses give its name, its place and its content.
    """

    called: ClassVar[str]
    """the name it is registered under"""
    home: ClassVar[str] = ""
    """where the root lies below the usual folders, if it is not one of these itself"""
    place: ClassVar[str]
    """the file or folder below the root that shows that it is there"""
    source: ClassVar[str] = ""
    """how to get it, as the end of a sentence about what is wrong with it"""

    root: Folder | None = None
    """folder that its files lie in; none: looked for in `$BENCH_DATA`, then in `datasets` in the
    cache folder
    """

    @model_validator(mode="after")
    def _settle(self) -> Self:
        # Stages know nothing of $BENCH_DATA and $BENCH_CACHE, so the folder is chosen when
        # parameters are read.
        if self.root is None:
            object.__setattr__(self, "root", self._usual())
        return self

    def _usual(self) -> Path:
        """Return the first usual folder that has the data set, or else the first."""
        folders = [cache_folder() / "datasets" / self.home]
        data = os.environ.get("BENCH_DATA")
        if data:
            folders.insert(0, Path(data).absolute() / self.home)
        for folder in folders:
            if (folder / self.place).exists():
                return folder
        return folders[0]

    @property
    def folder(self) -> Path:
        """The root, for certain."""
        assert self.root is not None
        return self.root

    # --- for subclasses ---------------------------------------------------------------------------

    def files(self) -> list[Path]:
        """Return the files that its pictures and labels are read from.

        Raises FileNotFoundError where one is missing.
        """
        raise NotImplementedError

    def measure(self) -> tuple[int, int, int, int, int, int]:
        """Return (classes, height, width, channels, training images, test images)."""
        raise NotImplementedError

    def decode(self) -> Arrays:
        """Read pictures and labels."""
        raise NotImplementedError

    def settings(self) -> str:
        """Return the parameters that change what is decoded, for the fingerprint."""
        return ""

    def present(self) -> None:
        """Raise ValueError, with how to get it, unless the set is there."""
        if not (self.folder / self.place).exists():
            raise ValueError(
                f"{self.called} is not in {self.folder}, which has no {self.place}; name another "
                f"root, or {self.source}"
            )

    def remedy(self) -> str:
        """Return what helps against missing and damaged files, as the end of a sentence."""
        return self.source

    # --- the interface ----------------------------------------------------------------------------

    def facts(self) -> Facts:
        """Count, and take the checksums of all files.

        Raises ValueError for a missing or damaged set, with how to get it.
        """
        self.present()
        try:
            counts = self.measure()
            digest = self.content()
        except Exception as error:
            # Pickle, zlib, scipy, csv, torchvision: each has its own for a damaged file.
            raise self._unusable(error) from error
        return Facts(*counts, digest)

    def load(self) -> Pictures:
        """Decode both splits. Raises ValueError where files are missing or damaged."""
        self.present()
        try:
            arrays = self.decode()
        except Exception as error:
            raise self._unusable(error) from error
        return Pictures(*arrays)

    def content(self) -> str:
        """Return the digest of all files, and of the settings they are decoded with."""
        return fingerprint(self.called, self.files(), self.folder, self.settings())

    def _unusable(self, error: Exception) -> ValueError:
        message = " ".join(str(error).split())
        reason = message.partition(" You can use download=True")[0]
        return ValueError(
            f"{self.called} in {self.folder} cannot be read ({reason}); {self.remedy()}"
        )


def fingerprint(name: str, files: Iterable[Path], base: Path, settings: str = "") -> str:
    """Return a digest over the content of files and the settings they are decoded with.

    It covers their names below `base` too.
    """
    whole = hashlib.sha256(f"{name}\n{settings}\n".encode())
    for path in files:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        line = f"{digest} {path.relative_to(base).as_posix()}\n"
        whole.update(line.encode())
    return whole.hexdigest()
