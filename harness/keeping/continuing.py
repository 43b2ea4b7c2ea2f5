"""The loops of one stage, and the files in which they are kept.

On disk a checkpoint is a folder: `about.json` (for the host), `state.json` (for this module) and a
file of tensors for each loop. It appears with one rename.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import Unfit
from harness.keeping.loops import SHARE, Entry, Kept, KeptLoop

ABOUT = "about.json"
STATE = "state.json"

CHECKPOINTS = "checkpoint"
"""Folder of a stage's scratch folder in which it leaves checkpoints, numbered; it is there from the
first loop on.
"""
RESUME = "resume"
"""Folder of the scratch folder with the checkpoint that the stage is to go on from, if any."""
PAUSE = "pause"
"""File of the scratch folder that asks for a checkpoint and an end."""

FORMAT = 2
LIMIT = 4 << 30
"""Bytes of a checkpoint at most: a stage with more to keep starts over."""

PAUSE_LOOK = 0.1
"""Seconds between two looks for the host's wish to pause."""


@dataclass(frozen=True)
class Before:
    """The work that went into a stage before this attempt: times that it was continued, seconds on
    the clock and of processors.
    """

    continued: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class Continuing:
    """The loops of one stage. `scratch` is the stage's folder, None where nothing is to be written;
    `every` the seconds between two checkpoints, 0 for none at all.

    `about` is asked, when a checkpoint is written, for facts that the host wants to know.
    """

    def __init__(
        self,
        scratch: Path | None = None,
        every: float = 0.0,
        about: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.every = every
        self.before = Before()
        self.told = ""
        """Why nothing is kept, where that is so."""
        self._scratch = scratch
        self._about = about
        self._began = time.monotonic()
        self._cpu_began = time.process_time()
        self._written = self._began
        self._looked = 0.0
        self._asked = False
        self._cost = 0.0
        self._number = 0
        self._parts = 0
        self._entries: dict[str, Entry] = {}
        self._stack: list[KeptLoop] = []
        self._calls: dict[str, int] = {}

    @property
    def active(self) -> bool:
        """Tell whether anything is kept."""
        return self._scratch is not None and self.every > 0 and not self.told

    @property
    def keeps(self) -> bool:
        """Tell whether the stage is in a loop that would go on where it stopped."""
        return self.active and bool(self._stack)

    @property
    def place(self) -> str:
        """Where the stage is, from the outermost loop to the innermost: `round 2 of 3, epoch 61 of
        200`; "" outside of loops.
        """
        return ", ".join(loop.place for loop in self._stack if loop.place)

    # --- going on ---------------------------------------------------------------------------------

    def resume(self, environment: Callable[[], Mapping[str, Any]]) -> None:
        """Read the checkpoint that the host put into the scratch folder, if it did. Raises Unfit
        where it is from another environment, or cannot be read.
        """
        assert self._scratch is not None
        folder = self._scratch / RESUME
        if not folder.is_dir():
            return
        try:
            about = json.loads((folder / ABOUT).read_bytes())
            state = json.loads((folder / STATE).read_bytes())
            there = about["environment"]
            differing = _differences(there, environment())
            if differing:
                raise Unfit(f"it was written with another {differing}")
            if state["format"] != FORMAT:
                raise Unfit(f"it has format {state['format']}, this version reads {FORMAT}")
            for path, kept in state["entries"].items():
                file = folder / kept["file"]
                entry = Entry(kept["done"], kept["finished"], kept["json"], kept["size"], file=file)
                self._entries[path] = entry
            self.before = Before(about["continued"] + 1, about["seconds"], about["cpu_seconds"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unfit(f"it cannot be read: {error}") from error

    def enter(self, name: str, things: Kept) -> KeptLoop:
        """Return the loop that begins now, where the loops around it are."""
        calls, above, parent = self._calls, "", None
        if self._stack:
            parent = self._stack[-1]
            parent.nests = True
            calls = parent.calls
            above = f"{parent.path}@{parent.done}/"
        number = calls.get(name, 0)
        calls[name] = number + 1
        path = above + (f"{name}/{number}" if number else name)
        tracked = parent is None or (parent.tracked and parent.known)
        loop = KeptLoop(self, path, things, self._entries.get(path), tracked=tracked)
        loop.nests = any(other.startswith(f"{path}@") for other in self._entries)
        things.begin()
        self._stack.append(loop)
        if self.active and self._scratch is not None:
            (self._scratch / CHECKPOINTS).mkdir(exist_ok=True)
        return loop

    # --- keeping, as loops ask for it -------------------------------------------------------------

    def due(self) -> bool:
        """Tell whether a checkpoint is to be written now."""
        since = time.monotonic() - self._written
        return since >= max(self.every, SHARE * self._cost) or self.asked_to_pause()

    def asked_to_pause(self) -> bool:
        """Tell whether the host wants the stage to stop; it is not asked at every step."""
        now = time.monotonic()
        if not self._asked and self._scratch is not None and now - self._looked >= PAUSE_LOOK:
            self._looked = now
            self._asked = (self._scratch / PAUSE).exists()
        return self._asked

    def forget(self, path: str) -> None:
        """Forget what is kept of loops within the iterations of a loop."""
        within = f"{path}@"
        for other in [other for other in self._entries if other.startswith(within)]:
            self._drop(self._entries.pop(other))

    def put(self, path: str, entry: Entry) -> None:
        """Keep the state of a loop, in memory until a checkpoint is written."""
        before = self._entries.pop(path, None)
        if before is not None:
            self._drop(before)
        self._entries[path] = entry

    def leave(self, loop: KeptLoop) -> None:
        """Take note that a loop is over, with whatever was begun within it and never ended."""
        if loop in self._stack:
            del self._stack[self._stack.index(loop) :]

    def _drop(self, entry: Entry) -> None:
        if entry.file is not None:
            entry.file.unlink(missing_ok=True)

    def spill(self, entry: Entry) -> None:
        """Write an entry's tensors to a file, for as long as it is kept: memory is for the stage.

        Trouble with the disk leaves them in memory.
        """
        if entry.packed is None or self._scratch is None:
            return
        self._parts += 1
        folder = self._scratch / CHECKPOINTS / "parts"
        file = folder / f"{self._parts}.safetensors"
        try:
            folder.mkdir(exist_ok=True)
            entry.packed.save(file)
        except Exception as error:  # safetensors has errors of its own
            file.unlink(missing_ok=True)
            print(f"checkpoint: {error}", flush=True)
            return
        entry.file = file
        entry.packed = None

    def write(self) -> bool:
        """Write a checkpoint; return whether that went well. Trouble with the disk, or too much of
        it, costs the checkpoint and not the stage.
        """
        assert self._scratch is not None
        began = time.monotonic()
        size = sum(entry.size for entry in self._entries.values())
        if size > LIMIT:
            self.give_up(f"its state has {size:,} bytes, more than the {LIMIT:,} that are kept")
            return False
        self._number += 1
        place = self._scratch / CHECKPOINTS
        unfinished = place / f"{self._number}.tmp"
        try:
            unfinished.mkdir()
            self._fill(unfinished)
            unfinished.rename(place / str(self._number))
        except OSError as error:
            print(f"checkpoint: {error}", flush=True)
            shutil.rmtree(unfinished, ignore_errors=True)
            return False
        finally:
            self._written = time.monotonic()
            self._cost = max(self._cost / 2, self._written - began)
        # The host may be copying the one before.
        shutil.rmtree(place / str(self._number - 2), ignore_errors=True)
        return True

    def give_up(self, why: str) -> None:
        """Keep nothing from here on, and say why. The stage goes on."""
        assert self._scratch is not None
        self.told = why
        print(f"checkpoint: {why}: it starts over if it is stopped", flush=True)
        self._entries.clear()
        shutil.rmtree(self._scratch / CHECKPOINTS, ignore_errors=True)

    def _fill(self, folder: Path) -> None:
        entries = {}
        for number, (path, entry) in enumerate(self._entries.items()):
            self.spill(entry)
            if entry.file is None:
                raise OSError(f"the state of loop {path} cannot be written")
            name = f"{number}.safetensors"
            os.link(entry.file, folder / name)
            entries[path] = {
                "file": name,
                "done": entry.done,
                "finished": entry.finished,
                "json": entry.json,
                "size": entry.size,
            }
        state = {"format": FORMAT, "entries": entries}
        passed = time.monotonic() - self._began
        about = {
            **self._about(),
            "continued": self.before.continued,
            "attempt_seconds": passed,
            "seconds": self.before.seconds + passed,
            "cpu_seconds": self.before.cpu_seconds + time.process_time() - self._cpu_began,
            "place": self.place,
        }
        (folder / STATE).write_text(json.dumps(state))
        (folder / ABOUT).write_text(json.dumps(about))


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Name the first fact in which two environments differ as far as bits go; "" if none does."""
    for name in sorted(there.keys() | here.keys()):
        if name == "packages":
            below = _differences(there.get(name) or {}, here.get(name) or {})
            if below:
                return f"version of {below}"
        elif name != "release" and there.get(name) != here.get(name):
            return name
    return ""
