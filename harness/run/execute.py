"""Run the stages of a plan: one ready queue in the parent, and an engine's slots that take from it.

A stage starts the moment its inputs exist and a slot is free. What another run is making is asked
for again later, without holding a slot; an input that turns out missing or damaged is made again
first. A failure blocks what depends on it and nothing else. What ran beside a stage that was caught
among others at work is made again.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import FrameType
from typing import Any

from harness.outcomes import Outcome
from harness.run.children import PAUSE_PATIENCE
from harness.run.engine import Engine, start
from harness.run.host import SPOILT, Attempt, Busy, Missing, Stopped
from harness.run.observers import Observers
from harness.run.ready import ReadyQueue
from harness.run.slots import Slot
from harness.run.state import Ended, Executable, Options, Run, Running, Summary
from harness.store.objects import Store

__all__ = ["Ended", "Options", "Run", "Running", "Summary", "execute"]

BUSY_POLL = 0.5
"""Seconds until a key is asked for again that another run is working on."""

REPAIRS = 3
"""Times that an input is made again for one stage, and that a stage is made again because of its
neighbours; after that, something is wrong with the disk or the stage.
"""

_NOT_RUN = (Outcome.BLOCKED, Outcome.CACHED, Outcome.PAUSED)
_CONSEQUENCES = (Outcome.BLOCKED, Outcome.INCOMPATIBLE, Outcome.PAUSED)
"""Ends of stages that may be due to another stage alone."""


def execute(
    plan: Executable, store: Store, options: Options | None = None, observers: Sequence[object] = ()
) -> Summary:
    """Run the plan's TO_RUN stages.

    `observers` are plugin objects with life-cycle hooks. On SIGINT and SIGTERM, stages that keep
    their state have `PAUSE_PATIENCE` seconds to do so; then everything is killed and cleaned up,
    the observers get their summary, and KeyboardInterrupt or SystemExit(143) is raised; what has
    ended by then is in the store. Raises StoreError when the store cannot be used
    any more.
    """
    return _Execution(plan, store, options or Options(), Observers(observers)).go()


@dataclass(frozen=True)
class _AttemptOver:
    """The event that an attempt at a stage has come to its end, and its slot is free."""

    key: str
    slot: Slot
    future: Future[Attempt]


@dataclass(frozen=True)
class _Interrupt:
    """The event that a signal tells the run to end."""

    number: int


_Events = queue.SimpleQueue[_AttemptOver | _Interrupt]


class _Execution:
    def __init__(
        self, plan: Executable, store: Store, options: Options, observers: Observers
    ) -> None:
        self.plan = plan
        self.store = store
        self.observers = observers
        wanted = [key for key in plan.stages if plan.outcome.get(key) is Outcome.TO_RUN]
        self.queue = ReadyQueue(plan.stages, wanted)
        kept = store.checkpoints.seconds()
        self.run = Run(plan, store, options, wanted=len(wanted), kept=kept)
        self.events: _Events = queue.SimpleQueue()
        self.free: list[Slot] = []
        self.later: list[tuple[float, str]] = []
        """A heap of keys that are busy elsewhere, and when to ask again (monotonic seconds)."""
        self.repairs: Counter[str] = Counter()
        self.remade: Counter[str] = Counter()
        self.spoilt: set[str] = set()
        """Stages that are over but whose end has not been noted, and that must be made again."""
        self.interrupted: int | None = None

    def go(self) -> Summary:
        """Run everything, and return the summary, or raise what ended the run."""
        self.store.tidy()
        engine: Engine | None = None
        try:
            if self.queue:
                engine = start(self.run.options.engine, self.store, self.run.options)
                self.run.slots = engine.slots
                self.free = list(reversed(engine.slots))
            self.observers.run_start(self.run)
            if engine is not None:
                with _signals(self.events):
                    self._loop(engine)
        finally:
            try:
                if engine is not None:
                    engine.stop()
            finally:
                summary = self._summary()
                self.observers.run_end(summary)
        if self.interrupted == signal.SIGINT:
            raise KeyboardInterrupt
        if self.interrupted is not None:
            raise SystemExit(summary.exit_code)
        return summary

    def _summary(self) -> Summary:
        return Summary(
            stages=self.plan.stages,
            ended=dict(self.run.ended),
            seconds=time.monotonic() - self.run.began,
            left=len(self.queue),
            interrupted=self.interrupted,
        )

    def _loop(self, engine: Engine) -> None:
        while self.queue:
            self._dispatch(engine)
            if not self.run.running and not self.later:
                raise RuntimeError(
                    "stages are left, but none can start: the plan's inputs go round in a circle"
                )
            try:
                event = self.events.get(timeout=self._patience())
            except queue.Empty:
                continue
            if isinstance(event, _Interrupt):
                self.interrupted = event.number
                self._pause(engine)
                engine.stop()
                self._drain()
                return
            self._settle(event)

    def _patience(self) -> float | None:
        """Return the seconds until a busy key is due; None while none is, or no slot is free."""
        if not self.later or not self.free:
            return None
        due, _ = self.later[0]
        return max(0.0, due - time.monotonic())

    def _dispatch(self, engine: Engine) -> None:
        """Fill the free slots with ready stages."""
        while self.later and self.later[0][0] <= time.monotonic():
            _, key = heapq.heappop(self.later)
            self.queue.put_back(key)
        while self.free:
            next_key = self.queue.take()
            if next_key is None:
                return
            self._submit(engine, next_key, self.free.pop())

    def _submit(self, engine: Engine, key: str, slot: Slot) -> None:
        running = Running(self.plan.stages[key], slot, time.monotonic())
        self.run.running[key] = running

        def notify(progress: Mapping[str, Any] | None) -> None:
            running.progress = progress

        future = engine.submit(running.stage, slot, notify)
        future.add_done_callback(functools.partial(self._report, key, slot))

    def _report(self, key: str, slot: Slot, future: Future[Attempt]) -> None:
        self.events.put(_AttemptOver(key, slot, future))

    def _pause(self, engine: Engine) -> None:
        """Wait for what runs to keep its state, within a bound."""
        engine.pause()
        until = time.monotonic() + PAUSE_PATIENCE
        while self.run.running and time.monotonic() < until:
            try:
                event = self.events.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return
            if isinstance(event, _AttemptOver):
                self._settle(event)

    def _drain(self) -> None:
        """Take note of what ended while everything was being stopped."""
        while True:
            try:
                event = self.events.get_nowait()
            except queue.Empty:
                return
            if isinstance(event, _AttemptOver) and not event.future.cancelled():
                self._settle(event)

    def _settle(self, over: _AttemptOver) -> None:
        key = over.key
        del self.run.running[key]
        self.free.append(over.slot)
        attempt = over.future.result()
        if isinstance(attempt, Busy):
            heapq.heappush(self.later, (time.monotonic() + BUSY_POLL, key))
        elif isinstance(attempt, Missing):
            self._repair(key, attempt)
        elif isinstance(attempt, Ended):
            self._end(key, attempt)
            if key in self.spoilt:
                self.spoilt.discard(key)
                self._remake(key)
            for neighbour in attempt.beside or ():
                self._spoil(neighbour)
        else:
            assert isinstance(attempt, Stopped)
            self.queue.put_back(key)

    def _spoil(self, key: str) -> None:
        """Make a stage again that ran beside one that was caught."""
        if key in self.run.running:
            self.spoilt.add(key)  # it is over, but we have not heard of its end yet
        elif not self.queue.pending(key):
            self._remake(key)

    def _remake(self, key: str) -> None:
        """Put a stage on the list again whose end cannot be believed, and what was lost with it."""
        ended = self.run.ended.get(key)
        if ended is None or ended.beside is not None or ended.outcome in _NOT_RUN:
            return
        self.remade[key] += 1
        if self.remade[key] > REPAIRS:
            return
        if ended.outcome is Outcome.DONE:
            self.store.set_aside(key, SPOILT)
        self._want(key)
        self._revive(key)

    def _revive(self, key: str) -> None:
        """Put stages on the list again that were given up because of this one and nothing else."""
        for dependant in self.queue.dependants(key):
            ended = self.run.ended.get(dependant)
            if ended is None or ended.outcome not in _CONSEQUENCES:
                continue
            inputs = self.plan.stages[dependant].inputs
            if any(self._is_lost(item.key) for item in inputs):
                continue
            self._want(dependant)
            self._revive(dependant)

    def _is_lost(self, key: str) -> bool:
        ended = self.run.ended.get(key)
        return ended is not None and ended.outcome not in (Outcome.DONE, Outcome.CACHED)

    def _repair(self, key: str, missing: Missing) -> None:
        """Make inputs again that are gone or damaged, and then this stage."""
        self.repairs[key] += 1
        for item in missing.keys:
            if not self._known(item):
                reason = f"{missing.reason}, and it is no part of this plan: plan again"
            elif self.repairs[key] > REPAIRS or self._has_failed(item):
                reason = missing.reason
            else:
                continue
            message = f"its input {self._name(item)} cannot be used: {reason}"
            self._end(key, Ended(Outcome.FAILED, message))
            return
        for item in missing.keys:
            self._want(item)
        self.queue.wait_for(key, missing.keys)

    def _name(self, key: str) -> str:
        """Name a stage in a sentence: by kind and cell, or by key if the plan does not have it."""
        stage = self.plan.stages.get(key)
        if stage is None:
            return key
        return f"{stage.kind} ({stage.title})"

    def _known(self, key: str) -> bool:
        return key in self.plan.stages and self._usable(key)

    def _usable(self, key: str) -> bool:
        return self.plan.outcome.get(key, Outcome.CACHED) in (Outcome.CACHED, Outcome.TO_RUN)

    def _has_failed(self, key: str) -> bool:
        ended = self.run.ended.get(key)
        return ended is not None and ended.outcome.is_failure

    def _want(self, key: str) -> None:
        """Put a stage that had ended, or was cached, on the list again."""
        for item in self.queue.want(key, self._is_stored):
            if item in self.run.ended:
                del self.run.ended[item]  # it is among those wanted already
            else:
                self.run.wanted += 1

    def _is_stored(self, key: str) -> bool:
        return self.store.manifest(key) is not None

    def _end(self, key: str, ended: Ended) -> None:
        """Take note of the end of a stage, and of what follows for those that depend on it."""
        self._note(key, ended)
        if ended.outcome in (Outcome.DONE, Outcome.CACHED):
            self.queue.finish(key)
            self._renew_dependants(key)
            if self.remade and self._is_outdated(key):
                self._want(key)  # an input was made again meanwhile
            return
        if ended.outcome is Outcome.INCOMPATIBLE:
            consequence = Ended(Outcome.INCOMPATIBLE, ended.message)
        elif ended.outcome is Outcome.PAUSED:
            reason = f"waits for {self._name(key)}, which is {ended.outcome.value}"
            consequence = Ended(Outcome.PAUSED, reason)
        else:
            reason = f"needs {self._name(key)}, which {ended.outcome.value}: {ended.message}"
            consequence = Ended(Outcome.BLOCKED, reason)
        for lost in self.queue.drop(key):
            self._note(lost, consequence)

    def _renew_dependants(self, key: str) -> None:
        """Put dependants on the list again that were made from another object than this one.

        They exist in the store, from before this object was made again with other content.
        """
        for dependant in self.queue.dependants(key):
            if not self._usable(dependant) or self.queue.pending(dependant):
                continue
            if self._is_outdated(dependant):
                self._want(dependant)

    def _is_outdated(self, key: str) -> bool:
        manifest = self.store.manifest(key)
        return manifest is not None and bool(self.store.outdated(manifest))

    def _note(self, key: str, ended: Ended) -> None:
        self.run.ended[key] = ended
        self.observers.stage_end(self.plan.stages[key], ended.outcome)


@contextlib.contextmanager
def _signals(events: _Events) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into an event; the second does what it did before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(number: int, frame: FrameType | None) -> None:
        restore()
        events.put(_Interrupt(number))

    try:
        for number in before:
            signal.signal(number, note)
        yield
    finally:
        restore()
