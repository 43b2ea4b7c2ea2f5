"""The processes of a run, found by the folder that they work in."""

from __future__ import annotations

from pathlib import Path


def marked(folder: Path) -> dict[int, bool]:
    """Processes that work in scratch folders below `folder`; whether each is a fork server."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if str((process / "cwd").readlink()).startswith(f"{folder}/"):
                found[int(process.name)] = False
            elif str(folder).encode() in command and b"harness.run.forkserver" in command:
                found[int(process.name)] = True
        except OSError:
            continue
    return found
