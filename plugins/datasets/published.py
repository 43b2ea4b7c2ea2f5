"""Published data sets: their folders, their downloads, and their fingerprints for keys."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import model_validator

from harness import Dataset, Facts, Folder, NotInKey, Pictures, cache_folder

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Training images (uint8 NHWC), training labels (int64), test images, test labels."""
PATIENCE = 40.0
"""seconds that a plan waits for a download, which goes on without it"""


class Published(Dataset):
    """A data set that torchvision can fetch.

    Subclasses give its name, its place and its content.
    """

    called: ClassVar[str]
    """the name it is registered under"""
    place: ClassVar[str]
    """the file or folder below the root that shows that it is there"""

    root: Folder | None = None
    """folder that torchvision's files lie in; none: `$BENCH_DATA`, or `datasets` in the cache
    folder
    """
    download: Annotated[bool, NotInKey] = False
    """fetch the data set if it is not there"""

    @model_validator(mode="after")
    def _settle(self) -> Self:
        # Stages know nothing of $BENCH_DATA and $BENCH_CACHE, so the folder is chosen when
        # parameters are read.
        if self.root is None:
            object.__setattr__(self, "root", self._usual())
        return self

    def _usual(self) -> Path:
        """Return the first usual folder that has the data set, or else the first."""
        folders = [cache_folder() / "datasets"]
        data = os.environ.get("BENCH_DATA")
        if data:
            folders.insert(0, Path(data).absolute())
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

    def fetch(self) -> None:
        """Download whatever is missing below the root, without a time-out."""
        raise NotImplementedError

    def flags(self) -> tuple[str, ...]:
        """Return further words of the command that fetches it, after the name and the folder."""
        return ()

    def settings(self) -> str:
        """Return the parameters that change what is decoded, for the fingerprint."""
        return ""

    # --- the interface ----------------------------------------------------------------------------

    def facts(self) -> Facts:
        """Count, and take the checksums of all files.

        Raises ValueError with the command that fetches a missing set.
        """
        self._present()
        try:
            counts = self.measure()
            digest = fingerprint(self.called, self.files(), self.folder, self.settings())
        except Exception as error:
            # Pickle, zlib, scipy, csv, torchvision: each has its own for a damaged file.
            raise self._unusable(error) from error
        return Facts(*counts, digest)

    def load(self) -> Pictures:
        """Decode both splits. Raises ValueError where files are missing or damaged."""
        self._present()
        try:
            arrays = self.decode()
        except Exception as error:
            raise self._unusable(error) from error
        return Pictures(*arrays)

    def _unusable(self, error: Exception) -> ValueError:
        message = " ".join(str(error).split())
        reason = message.partition(" You can use download=True")[0]
        return ValueError(
            f"{self.called} in {self.folder} cannot be read ({reason}); fetch it again: "
            f"{shlex.join(self._command())}"
        )

    def _present(self) -> None:
        """Fetch the set if it is not there and that is allowed.

        Raises ValueError unless it is there, or can be fetched in time.
        """
        if (self.folder / self.place).exists():
            return
        command = self._command()
        by_hand = shlex.join(command)
        if not self.download:
            raise ValueError(
                f"{self.called} is not in {self.folder}; say download = true, name another root, "
                f"or fetch it: {by_hand}"
            )
        with tempfile.TemporaryFile() as log:
            # A session of its own: whoever asked is killed with all it started when that takes too
            # long.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
            try:
                code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                raise ValueError(
                    f"{self.called} is being downloaded to {self.folder}; try again when it is "
                    f"there, or wait for it: {by_hand}"
                ) from None
            log.seek(0)
            output = log.read().decode("utf-8", "replace")
        if code:
            last = output.strip().rpartition("\n")[2]
            raise ValueError(
                f"{self.called} could not be downloaded ({last}); try it yourself: {by_hand}"
            )

    def _command(self) -> list[str]:
        """Return the command that fetches the set."""
        module = "plugins.datasets.fetch"
        return [sys.executable, "-m", module, self.called, str(self.folder), *self.flags()]


def torchvision_datasets() -> Any:
    """Return `torchvision.datasets`, which imports torch."""
    from torchvision import datasets  # late: a plan imports the data sets' modules

    return datasets


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
