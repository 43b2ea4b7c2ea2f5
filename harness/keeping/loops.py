"""Loops that go on where they stopped: what of a stage is kept, when, and how it comes back.

A stage that is tried again runs its body from the start. What lies outside of loops is done again;
each loop puts back what was kept of it: one that had ended its final state, upon which it runs no
iteration, one that had not its last, from which it goes on.

A loop is known by its *path*: `fit`, `fit/1` for the second call, `steps@17/fit` for the first one
within the iteration of `steps` that has 17 before it. What is kept of loops within an iteration is
forgotten with the iteration, since the outer loop's own state covers it. For that state to be known
while an inner loop runs, it is copied at the start of iterations that take long.

On disk a checkpoint is a folder: `about.json` (for the host), `state.json` (for this module) and a
file of tensors for each loop. It appears with one rename.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import Paused, Unfit

if TYPE_CHECKING:
    from harness.keeping.states import Packed

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

FORMAT = 1
LIMIT = 4 << 30
"""Bytes of a checkpoint at most: a stage with more to keep starts over."""

PAUSE_LOOK = 0.1
"""Seconds between two looks for the host's wish to pause."""
LONG = 1.0
"""Seconds of an iteration from which loops within it are worth keeping."""
QUICK = 0.1
"""Seconds of a loop that is run again rather than kept once it has ended."""
SHARE = 200
"""A checkpoint is written at most once in so many times the time that writing one takes."""


class Loop(Protocol):
    """One loop that goes on where it stopped, as `fit` sees it."""

    @property
    def finished(self) -> bool:
        """Tell whether the loop had come to its end before: then `restore` gives its final
        state.
        """
        ...

    def restore(self) -> Any:
        """Put everything that is kept beside the caller's own state back; return that state, None
        where there is none.
        """
        ...

    def boundary(self, done: int, place: str, state: Callable[[], Any]) -> None:
        """Say that so many iterations are done and the next begins; `place` is for people. Asks
        for the caller's own `state` where it is to be kept now. Raises Paused.
        """
        ...

    def finish(self, state: Callable[[], Any]) -> None:
        """Say that the loop has come to its end."""
        ...

    def abandon(self) -> None:
        """Say that the loop was left before its end, by an exception or `break`."""
        ...


class NoLoop:
    """A loop of which nothing is kept."""

    finished = False

    def restore(self) -> Any:
        """See `Loop`."""
        return None

    def boundary(self, done: int, place: str, state: Callable[[], Any]) -> None:
        """See `Loop`."""

    def finish(self, state: Callable[[], Any]) -> None:
        """See `Loop`."""

    def abandon(self) -> None:
        """See `Loop`."""


@dataclass
class Entry:
    """What is kept of one loop: `done` iterations, its state as JSON and tensors, those in memory
    or, once written, in a file.
    """

    done: int
    finished: bool
    json: Any
    size: int
    packed: Packed | None = None
    file: Path | None = None


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
        if number == 0:
            things.check()
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
            self.told = f"its state has {size:,} bytes, more than the {LIMIT:,} that are kept"
            print(f"checkpoint: {self.told}: it starts over if it is stopped", flush=True)
            self._entries.clear()
            shutil.rmtree(self._scratch / CHECKPOINTS, ignore_errors=True)
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
        about = {
            **self._about(),
            "continued": self.before.continued,
            "seconds": self.before.seconds + time.monotonic() - self._began,
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


class Kept:
    """What is kept of a loop beside the caller's own state: objects by name, the state of the
    workbench, global generators.
    """

    def __init__(
        self,
        things: Mapping[str, object],
        bench: Callable[[], dict[str, Any]],
        restore_bench: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self.things = things
        self._bench = bench
        self._restore_bench = restore_bench

    def check(self) -> None:
        """Raise TypeError, naming the object, where something is no object that can be kept."""
        from harness.keeping.states import check, state_of  # torch: children alone call this

        for name, thing in self.things.items():
            try:
                check(state_of(thing))
            except TypeError as error:
                raise TypeError(f'keep["{name}"]: {error}') from error

    def pack(self, own: Any) -> Packed:
        """Return everything as it is now, copied."""
        from harness.keeping.states import global_state, pack, state_of  # as in `check`

        things = {name: state_of(thing) for name, thing in self.things.items()}
        return pack(
            {"own": own, "things": things, "bench": self._bench(), "globals": global_state()}
        )

    def restore(self, packed: Packed) -> Any:
        """Put everything back; return the caller's own state. Raises Unfit."""
        from harness.keeping.states import restore, restore_globals  # as in `check`

        state = packed.unpack()
        kept = state["things"]
        if kept.keys() != self.things.keys():
            raise Unfit(f"it holds {', '.join(kept)}, where {', '.join(self.things)} is kept now")
        for name, thing in self.things.items():
            restore(thing, kept[name])
        self._restore_bench(state["bench"])
        restore_globals(state["globals"])
        return state["own"]


@dataclass(eq=False)
class KeptLoop:
    """One loop of a stage. `tracked`: its state would be of use, as those of the loops around it
    are known.
    """

    stage: Continuing
    path: str
    things: Kept
    entry: Entry | None
    tracked: bool
    place: str = ""
    done: int = 0
    nests: bool = False
    """There are loops within it."""
    known: bool = True
    """Its state at the start of this iteration is kept, or the iteration is the first of all."""
    calls: dict[str, int] = field(default_factory=dict)
    """Loops within this iteration so far, by name."""
    _entered: float = field(default_factory=time.monotonic)
    _started: float = 0.0
    _cost: float = 0.0

    def __post_init__(self) -> None:
        if self.entry is not None:
            self.done = self.entry.done

    @property
    def finished(self) -> bool:
        """See `Loop`."""
        return self.entry is not None and self.entry.finished

    def restore(self) -> Any:
        """See `Loop`."""
        from harness.keeping.states import Packed  # torch: children alone call this

        if self.entry is None:
            return None
        assert self.entry.file is not None
        try:
            return self.things.restore(Packed.load(self.entry.json, self.entry.file))
        except Unfit as error:
            raise Unfit(f"loop {self.path}: {error}") from error

    def boundary(self, done: int, place: str, state: Callable[[], Any]) -> None:
        """See `Loop`."""
        now = time.monotonic()
        took = now - self._started
        first = not self._started
        self._started = now
        self.place = place
        if not first:
            if self.nests:
                self.stage.forget(self.path)
            self.done = done
            self.calls = {}
            self.known = False
        if not (self.tracked and self.stage.active):
            return
        if self.stage.due():
            self._keep(done, state)
            written = self.stage.write()
            if written and self.stage.asked_to_pause():
                raise Paused(place)
        elif self.nests and not first and took >= max(LONG, SHARE * self._cost):
            self._keep(done, state)

    def _keep(self, done: int, state: Callable[[], Any], *, finished: bool = False) -> Entry:
        began = time.monotonic()
        packed = self.things.pack(state())
        entry = Entry(done, finished, packed.json, packed.size, packed)
        self.stage.put(self.path, entry)
        self.known = True
        self._cost = time.monotonic() - began
        return entry

    def finish(self, state: Callable[[], Any]) -> None:
        """See `Loop`. One that took next to no time is done again instead."""
        self.stage.forget(self.path)
        took = time.monotonic() - self._entered
        if self.tracked and self.stage.active and not self.finished and took >= QUICK:
            self.stage.spill(self._keep(self.done, state, finished=True))
        self.stage.leave(self)

    def abandon(self) -> None:
        """See `Loop`. What was kept of it last stays: it leads to the same end."""
        self.stage.leave(self)
