"""Published data sets that torchvision can fetch."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from typing import Annotated, Any

from harness import NotInKey
from plugins.datasets.placed import Placed

PATIENCE = 40.0
"""seconds that a plan waits for a download, which goes on without it"""


class Published(Placed):
    """A data set that torchvision can fetch, in its files."""

    download: Annotated[bool, NotInKey] = False
    """fetch the data set if it is not there"""

    def fetch(self) -> None:
        """Download whatever is missing below the root, without a time-out."""
        raise NotImplementedError

    def flags(self) -> tuple[str, ...]:
        """Return further words of the command that fetches it, after the name and the folder."""
        return ()

    def remedy(self) -> str:
        """See `Placed.remedy`."""
        return f"fetch it again: {shlex.join(self._command())}"

    def present(self) -> None:
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
