"""What the published data sets share: where they lie, how they come there, what stands for them in
keys.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import model_validator

from harness import Dataset, Facts, Folder, NotInKey, Pictures, cache_folder

if TYPE_CHECKING:
    import numpy as np

PATIENCE = 40.0
"""seconds that a plan waits for a download, which goes on without it"""


class Published(Dataset):
    """A data set that torchvision can fetch. Subclasses say how it is called, where it lies and
    what it has.
    """

    called: ClassVar[str]
    """the name it is registered under"""
    place: ClassVar[str]
    """the file or folder below the root by which one knows that it is there"""

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
        data = os.environ.get("BENCH_DATA")
        folders = [*([Path(data).absolute()] if data else []), cache_folder() / "datasets"]
        return next((folder for folder in folders if (folder / self.place).exists()), folders[0])

    @property
    def folder(self) -> Path:
        """The root, for certain."""
        assert self.root is not None
        return self.root

    # --- what a data set says of itself -----------------------------------------------------------

    def files(self) -> list[Path]:
        """The files that its pictures and labels are read from. Raises FileNotFoundError where one
        is missing.
        """
        raise NotImplementedError

    def measure(self) -> tuple[int, int, int, int, int, int]:
        """(classes, height, width, channels, training images, test images)."""
        raise NotImplementedError

    def decode(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Training images (uint8 NHWC), training labels, test images, test labels."""
        raise NotImplementedError

    def fetch(self) -> None:
        """Download whatever is missing below the root, without a time-out."""
        raise NotImplementedError

    def flags(self) -> tuple[str, ...]:
        """What the command that fetches it must be told besides the name and the folder."""
        return ()

    def settings(self) -> str:
        """Parameters that change what is decoded, for the fingerprint."""
        return ""

    # --- the interface ----------------------------------------------------------------------------

    def facts(self) -> Facts:
        """Counts, and the checksums of all files. Raises ValueError with the command that fetches a
        missing set.
        """
        self._present()
        try:
            return Facts(
                *self.measure(),
                fingerprint(self.called, self.files(), self.folder, self.settings()),
            )
        except (
            Exception
        ) as error:  # pickle, zlib, scipy, csv, torchvision: each has its own for a damaged file
            raise self._unusable(error) from error

    def load(self) -> Pictures:
        """Decode both splits. Raises ValueError where files are missing or damaged."""
        self._present()
        try:
            return Pictures(*self.decode())
        except Exception as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> ValueError:
        told = " ".join(str(error).split()).partition(" You can use download=True")[0]
        return ValueError(
            f"{self.called} in {self.folder} cannot be read ({told}); fetch it again: {self._command()}"
        )

    def _present(self) -> None:
        """Raise ValueError unless the set is there, or can be fetched in time where that is
        allowed.
        """
        if (self.folder / self.place).exists():
            return
        if not self.download:
            raise ValueError(
                f"{self.called} is not in {self.folder}; say download = true, name another root, or fetch it: "
                f"{self._command()}"
            )
        with tempfile.TemporaryFile() as log:
            # A session of its own: whoever asked is killed with all it started when that takes too
            # long.
            command = [
                sys.executable,
                "-m",
                "plugins.datasets.fetch",
                self.called,
                str(self.folder),
                *self.flags(),
            ]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
            try:
                code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                raise ValueError(
                    f"{self.called} is being downloaded to {self.folder}; try again when it is there, or wait for it: "
                    f"{self._command()}"
                ) from None
            log.seek(0)
            last = log.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
        if code:
            raise ValueError(
                f"{self.called} could not be downloaded ({last}); try it yourself: {self._command()}"
            )

    def _command(self) -> str:
        return shlex.join(
            [
                sys.executable,
                "-m",
                "plugins.datasets.fetch",
                self.called,
                str(self.folder),
                *self.flags(),
            ]
        )


def fingerprint(name: str, files: Iterable[Path], base: Path, settings: str = "") -> str:
    """A digest over the content of files, their names below `base`, and whatever settings they are
    decoded with.
    """
    whole = hashlib.sha256(f"{name}\n{settings}\n".encode())
    for path in files:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        whole.update(f"{digest} {path.relative_to(base).as_posix()}\n".encode())
    return whole.hexdigest()
