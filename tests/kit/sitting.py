"""One sitting of `bench` that believes to be on a host of its own, and may kill itself:
`python -m tests.kit.sitting HOST DEATH ARGUMENTS...`.

It looks for checkpoints of its stages every tenth of a second. DEATH: `never`; `writing`, half-way
through the files of the second checkpoint that it keeps; `written`, as soon as the first one is in
its place.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import cli
from harness.run import children
from harness.store import checkpoints
from harness.store.checkpoints import Checkpoints

LOOK = 0.1
"""Seconds between two looks for a checkpoint."""
WRITING, WRITTEN = 2, 1
"""The checkpoints at which a sitting dies, while it writes it or when it has."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: list[str]) -> int:
    host, death, *command = arguments
    socket.gethostname = lambda: host
    children.TICK = LOOK
    kept = 0
    keep, fill = Checkpoints.keep, checkpoints.fill

    def counting_keep(self: Checkpoints, *told: Any, **more: Any) -> None:
        nonlocal kept
        kept += 1
        keep(self, *told, **more)
        if death == "written" and kept == WRITTEN:
            die()

    def dying_fill(work: Path, files: Mapping[str, Path], *more: Any) -> Any:
        if death == "writing" and kept == WRITING:
            name, source = next(iter(files.items()))
            (work / name).write_bytes(source.read_bytes()[:100])
            die()
        return fill(work, files, *more)

    Checkpoints.keep = counting_keep  # type: ignore[method-assign]
    checkpoints.fill = dying_fill
    return cli.main(command)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
