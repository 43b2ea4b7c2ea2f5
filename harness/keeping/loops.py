"""Loops that go on where they stopped: what of a loop is kept, when, and how it comes back.

A stage that is tried again runs its body from the start. What lies outside of loops is done again;
each loop puts back what was kept of it: one that had ended its final state, upon which it runs no
iteration, one that had not its last, from which it goes on.

A loop is known by its *path*: `fit`, `fit/1` for the second call, `steps@17/fit` for the first one
within the iteration of `steps` that has 17 before it. What is kept of loops within an iteration is
forgotten with the iteration, since the outer loop's own state covers it. For that state to be known
while an inner loop runs, it is copied at the start of iterations that take long.

What the loops of a stage have in common, and their files, are in `continuing`; a loop knows of it
what `Around` says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import Paused, Unfit

if TYPE_CHECKING:
    from harness.keeping.objects import Objects
    from harness.keeping.packing import Packed

LONG = 1.0
"""Seconds of an iteration from which loops within it are worth keeping."""
QUICK = 0.1
"""Seconds of a loop that is run again rather than kept once it has ended."""
SHARE = 200
"""Something is kept at most once in so many times the time that keeping it takes."""


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


class Around(Protocol):
    """The stage around a loop, as the loop sees it."""

    @property
    def active(self) -> bool:
        """Tell whether anything is kept."""
        ...

    def due(self) -> bool:
        """Tell whether a checkpoint is to be written now."""
        ...

    def asked_to_pause(self) -> bool:
        """Tell whether the host wants the stage to stop."""
        ...

    def forget(self, path: str) -> None:
        """Forget what is kept of loops within the iterations of a loop."""
        ...

    def put(self, path: str, entry: Entry) -> None:
        """Keep the state of a loop, in memory until a checkpoint is written."""
        ...

    def spill(self, entry: Entry) -> None:
        """Write an entry's tensors to a file, for as long as it is kept: memory is for the stage.

        Trouble with the disk leaves them in memory.
        """
        ...

    def write(self) -> bool:
        """Write a checkpoint; return whether that went well."""
        ...

    def give_up(self, why: str) -> None:
        """Keep nothing from here on, and say why."""
        ...

    def leave(self, loop: KeptLoop) -> None:
        """Take note that a loop is over, with whatever was begun within it and never ended."""
        ...


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
        self.things = dict(things)
        self._bench = bench
        self._restore_bench = restore_bench
        self._objects: Objects

    def begin(self) -> None:
        """Take note of the objects that are there when the loop begins. Raises TypeError, naming
        the entry, where something cannot be kept.
        """
        from harness.keeping.objects import Objects  # torch: children alone call this

        named = {f'keep["{name}"]': thing for name, thing in self.things.items()}
        self._objects = Objects(named)
        self._objects.state()

    def pack(self, own: Any) -> Packed:
        """Return everything as it is now, copied. Raises TypeError, naming the entry, where
        something cannot be kept.
        """
        from harness.keeping.packing import check, pack  # as in `begin`
        from harness.keeping.states import global_state

        objects = self._objects.state()
        bench = self._bench()
        try:
            check(bench)
        except TypeError as error:
            raise TypeError(f"access.record: {error}") from error
        return pack(
            {
                "own": own,
                "names": list(self.things),
                "objects": objects,
                "bench": bench,
                "globals": global_state(),
            }
        )

    def restore(self, packed: Packed) -> Any:
        """Put everything back; return the caller's own state. Raises Unfit."""
        from harness.keeping.states import restore_globals  # as in `begin`

        state = packed.unpack()
        names = state["names"]
        if names != list(self.things):
            raise Unfit(f"it holds {', '.join(names)}, where {', '.join(self.things)} is kept now")
        self._objects.restore(state["objects"])
        self._restore_bench(state["bench"])
        restore_globals(state["globals"])
        return state["own"]


@dataclass(eq=False)
class KeptLoop:
    """One loop of a stage. `tracked`: its state would be of use, as those of the loops around it
    are known.
    """

    stage: Around
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
        from harness.keeping.packing import Packed  # torch: children alone call this

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
            kept = self._keep(done, state)
            if kept is not None and self.stage.write() and self.stage.asked_to_pause():
                raise Paused(place)
        elif self.nests and not first and took >= max(LONG, SHARE * self._cost):
            self._keep(done, state)

    def _keep(self, done: int, state: Callable[[], Any], *, finished: bool = False) -> Entry | None:
        """Keep the state of the loop, in memory. What cannot be kept costs the checkpoints, and not
        the stage: then there is None.
        """
        began = time.monotonic()
        try:
            packed = self.things.pack(state())
        except Exception as error:  # trouble with memory, say, is none of the stage
            self.stage.give_up(f"loop {self.path}: {error}")
            return None
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
            kept = self._keep(self.done, state, finished=True)
            if kept is not None:
                self.stage.spill(kept)
        self.stage.leave(self)

    def abandon(self) -> None:
        """See `Loop`. What was kept of it last stays: it leads to the same end."""
        self.stage.leave(self)
