"""Run what a plan says is to run: one ready queue in the parent, and an engine's slots to empty it
into.

A stage starts the moment its inputs exist and a slot is free. What another run is making is asked
for again later, without holding a slot; an input that turns out missing or damaged is made again
first. A failure blocks what depends on it and nothing else.
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
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

from harness.outcomes import Outcome
from harness.run.engine import Engine, start
from harness.run.host import Attempt, Busy, Ended, Missing, Options, Stopped
from harness.run.observers import Observers
from harness.run.ready import ReadyQueue
from harness.run.slots import Slot
from harness.stages import Stage
from harness.store.objects import Store

__all__ = ["Ended", "Options", "Plan", "Run", "Running", "Summary", "execute"]

BUSY_POLL = 0.5
"""Seconds until a key is asked for again that another run is working on."""

REPAIRS = 3
"""How often an input is made again for one stage; then something is wrong with the disk or the
stage.
"""


class Plan(Protocol):
    """What is needed of a plan: stages in topological order, and how each stands. TO_RUN ones are
    run.

    A stage that is CACHED, or of which the plan says nothing, is run only if it is needed and turns
    out to be missing.
    """

    @property
    def stages(self) -> Mapping[str, Stage]:
        """Stages by key."""
        ...

    @property
    def outcome(self) -> Mapping[str, Outcome]:
        """How each stage stands in the store, by key."""
        ...


@dataclass
class Running:
    """A stage at work: since when (monotonic seconds) and how far it is."""

    stage: Stage
    slot: Slot
    since: float
    progress: Mapping[str, Any] | None = None


@dataclass
class Run:
    """A run as observers see it; they read, and change nothing.

    `ended` and `running` by key; `wanted` counts the stages that are to run, those included that
    ended.
    """

    plan: Plan
    store: Store
    options: Options
    slots: Sequence[Slot] = ()
    wanted: int = 0
    ended: dict[str, Ended] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Summary:
    """What became of a run. `ended` by key, `left` the number of stages that an interruption left
    unfinished.
    """

    stages: Mapping[str, Stage]
    ended: Mapping[str, Ended]
    seconds: float
    left: int = 0
    interrupted: int | None = None
    """The signal that ended the run, if one did."""

    @property
    def counts(self) -> Counter[Outcome]:
        """How many stages came to each end."""
        return Counter(ended.outcome for ended in self.ended.values())

    @property
    def failures(self) -> dict[str, Ended]:
        """What failed, timed out or was blocked, by key."""
        return {key: ended for key, ended in self.ended.items() if ended.outcome.is_failure}

    @property
    def exit_code(self) -> int:
        """0: all is done; 1: something failed or is blocked; 128 + signal: interrupted."""
        return 128 + self.interrupted if self.interrupted else int(bool(self.failures))


def execute(
    plan: Plan, store: Store, options: Options | None = None, observers: Sequence[object] = ()
) -> Summary:
    """Run the plan's TO_RUN stages.

    `observers` are plugin objects with life-cycle hooks. On SIGINT and SIGTERM everything is killed
    and cleaned up, the observers get their summary, and KeyboardInterrupt or SystemExit(143) is
    raised; what has ended by then is in the store. Raises StoreError when the store cannot be used
    any more.
    """
    return _Execution(plan, store, options or Options(), Observers(observers)).go()


class _Execution:
    def __init__(self, plan: Plan, store: Store, options: Options, observers: Observers) -> None:
        self.plan, self.store, self.observers = plan, store, observers
        wanted = [key for key in plan.stages if plan.outcome.get(key) is Outcome.TO_RUN]
        self.queue = ReadyQueue(plan.stages, wanted)
        self.run = Run(plan, store, options, wanted=len(wanted))
        self.events: queue.SimpleQueue[tuple[str, Slot, Future[Attempt]] | int] = (
            queue.SimpleQueue()
        )
        self.free: list[Slot] = []
        self.later: list[tuple[float, str]] = []
        """Keys that are busy elsewhere, and when to ask again."""
        self.repairs: Counter[str] = Counter()
        self.interrupted: int | None = None

    def go(self) -> Summary:
        self.store.tidy()
        engine: Engine | None = None
        try:
            if self.queue:
                engine = start(self.run.options.engine, self.store, self.run.options)
                self.run.slots, self.free = engine.slots, list(reversed(engine.slots))
            self.observers.call("bench_run_start", run=self.run)
            if engine is not None:
                with _signals(self.events):
                    self._loop(engine)
        finally:
            try:
                if engine is not None:
                    engine.stop()
            finally:
                summary = self._summary()
                self.observers.call("bench_run_end", summary=summary)
        if self.interrupted == signal.SIGINT:
            raise KeyboardInterrupt
        if self.interrupted is not None:
            raise SystemExit(summary.exit_code)
        return summary

    def _summary(self) -> Summary:
        seconds = time.monotonic() - self.run.began
        return Summary(
            self.plan.stages, dict(self.run.ended), seconds, len(self.queue), self.interrupted
        )

    def _loop(self, engine: Engine) -> None:
        while self.queue:
            self._dispatch(engine)
            if not (self.run.running or self.later):
                raise RuntimeError(
                    "stages are left, but none can start: the plan's inputs go round in a circle"
                )
            try:
                event = self.events.get(timeout=self._patience())
            except queue.Empty:
                continue
            if isinstance(event, int):
                self.interrupted = event
                engine.stop()
                self._drain()
                return
            self._settle(*event)

    def _patience(self) -> float | None:
        """Seconds until a busy key is due; None while none is, or while it could not have a slot."""
        return max(0.0, self.later[0][0] - time.monotonic()) if self.later and self.free else None

    def _dispatch(self, engine: Engine) -> None:
        while self.later and self.later[0][0] <= time.monotonic():
            self.queue.put_back(heapq.heappop(self.later)[1])
        while self.free and (key := self.queue.take()) is not None:
            slot = self.free.pop()
            running = self.run.running[key] = Running(self.plan.stages[key], slot, time.monotonic())
            future = engine.submit(
                running.stage, slot, functools.partial(setattr, running, "progress")
            )
            future.add_done_callback(functools.partial(self._report, key, slot))

    def _report(self, key: str, slot: Slot, future: Future[Attempt]) -> None:
        self.events.put((key, slot, future))

    def _drain(self) -> None:
        """Take note of what ended while everything was being stopped."""
        with contextlib.suppress(queue.Empty):
            while True:
                event = self.events.get_nowait()
                if not isinstance(event, int) and not event[2].cancelled():
                    self._settle(*event)

    def _settle(self, key: str, slot: Slot, future: Future[Attempt]) -> None:
        del self.run.running[key]
        self.free.append(slot)
        attempt = future.result()
        if isinstance(attempt, Busy):
            heapq.heappush(self.later, (time.monotonic() + BUSY_POLL, key))
        elif isinstance(attempt, Missing):
            self._repair(key, attempt)
        elif isinstance(attempt, Ended):
            self._end(key, attempt)
        else:
            assert isinstance(attempt, Stopped)
            self.queue.put_back(key)

    def _repair(self, key: str, missing: Missing) -> None:
        """Make inputs again that are gone or damaged, and then this stage."""
        self.repairs[key] += 1
        for item in missing.keys:
            known = item in self.plan.stages and self._usable(item)
            spoilt = self.run.ended.get(item)
            if (
                self.repairs[key] > REPAIRS
                or not known
                or (spoilt is not None and spoilt.outcome.is_failure)
            ):
                title = self.plan.stages[item].title if item in self.plan.stages else item
                again = "" if known else ", and it is no part of this plan: plan again"
                self._end(
                    key,
                    Ended(
                        Outcome.FAILED, f"its input {title} cannot be used: {missing.reason}{again}"
                    ),
                )
                return
        for item in missing.keys:
            self._want(item)
        self.queue.wait_for(key, missing.keys)

    def _usable(self, key: str) -> bool:
        return self.plan.outcome.get(key, Outcome.CACHED) in (Outcome.CACHED, Outcome.TO_RUN)

    def _want(self, key: str) -> None:
        """Put a stage that had ended, or was cached, on the list again."""
        for item in self.queue.want(key, lambda item: self.store.manifest(item) is not None):
            # What had ended is counted already.
            self.run.wanted += self.run.ended.pop(item, None) is None

    def _end(self, key: str, ended: Ended) -> None:
        self._note(key, ended)
        if ended.outcome in (Outcome.DONE, Outcome.CACHED):
            self.queue.finish(key)
            self._look_after(key)
            return
        title = self.plan.stages[key].title
        incompatible = ended.outcome is Outcome.INCOMPATIBLE
        outcome = Outcome.INCOMPATIBLE if incompatible else Outcome.BLOCKED
        reason = (
            ended.message
            if incompatible
            else f"needs {title}, which {ended.outcome.value}: {ended.message}"
        )
        for lost in self.queue.drop(key):
            self._note(lost, Ended(outcome, reason))

    def _look_after(self, key: str) -> None:
        """Dependants that exist were made from an older object: if this one differs they are no
        longer valid.
        """
        for dependant in self.queue.dependants(key):
            if self._usable(dependant) and not self.queue.pending(dependant):
                manifest = self.store.manifest(dependant)
                if manifest is not None and self.store.outdated(manifest):
                    self._want(dependant)

    def _note(self, key: str, ended: Ended) -> None:
        self.run.ended[key] = ended
        self.observers.call("bench_stage_end", stage=self.plan.stages[key], outcome=ended.outcome)


@contextlib.contextmanager
def _signals(events: queue.SimpleQueue[Any]) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into an event; the second does what it did before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def note(number: int, frame: FrameType | None) -> None:
        restore()
        events.put(number)

    try:
        for number in before:
            signal.signal(number, note)
        yield
    finally:
        restore()
