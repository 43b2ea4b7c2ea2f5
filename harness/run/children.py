"""One process for each task, from the parent's side: starts the fork server when first needed, and
again when it died.

Whatever happens to a child comes back as a record, never as an exception, so that any kind of host
can pass it on.
"""

from __future__ import annotations

import errno
import itertools
import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.keeping.continuing import PAUSE
from harness.run import claims
from harness.run.records import bad_record, judge
from harness.run.server_process import KILL_TIMEOUT, Events, ServerProcess

PRELOAD = (
    "torch",
    "torch._dynamo",
    "numpy",
    "pydantic",
    "safetensors.torch",
    "harness.learn.evaluation",
    "harness.learn.poisoning",
    "harness.learn.weights",
    "harness.stages.materials",
    "harness.stages.wire",
)
"""Modules that children find imported. Never a plugin, nothing that touches a GPU."""

ENTRY = "harness.run.worker:main"
"""The function that a child calls with its task."""

TICK = 1.0
"""Seconds between two looks at a task's progress."""

PAUSE_PATIENCE = 10.0
"""Seconds that a stage has to keep its state, once it has been asked to pause."""

_TRIES = 3
"""Starts of a fork server that dies while it imports, before it is given up."""

OnTick = Callable[[dict[str, Any] | None], None]
"""Gets the content of `progress.json`, or None, about once a second."""


def _ignore(progress: dict[str, Any] | None) -> None:
    pass


def _nothing() -> None:
    pass


class Children:
    """The runner of tasks in child processes; safe to call from several threads.

    `base` is a folder for the fork server's log; `entry` names the function that gets the task,
    `preload` the modules that children find imported.
    """

    def __init__(self, base: Path, *, entry: str = ENTRY, preload: Sequence[str] = PRELOAD) -> None:
        self.base = base
        self.entry = entry
        self.preload = tuple(preload)
        self.stopped = False
        self.pausing = False
        self._running: dict[int, tuple[ServerProcess, Path]] = {}
        self._lock = threading.Lock()
        self._server: ServerProcess | None = None
        self._starting: set[ServerProcess] = set()
        self._private: set[ServerProcess] = set()
        self._broken = ""
        self._numbers = itertools.count(1)

    def run(
        self,
        task: Mapping[str, Any],
        scratch: Path,
        timeout: float | None = None,
        on_tick: OnTick = _ignore,
        *,
        on_start: Callable[[], None] = _nothing,
        alone: bool = False,
        pause: bool = False,
    ) -> dict[str, Any]:
        """Run one task in `scratch`, an existing folder, and return what became of it.

        With `alone` it has a fork server of its own, which no other task can take along. With
        `pause`, one that keeps its state is asked to do so after `timeout` seconds, and is killed
        `PAUSE_PATIENCE` later.

        `task` is JSON; its `env` is added to the child's environment. After `timeout` seconds the
        child's process group is killed. `on_start` is called when the fork server is there and the
        child begins; `on_tick` gets what `scratch/progress.json` tells, or None, about once a
        second. The record holds `status` (one of `claims.STATUSES`, or died),
        `type` and `message` unless ok, `seconds` (wall), `cpu_seconds`, `peak_memory` (bytes) and
        `signal` as the fork server measured them, and what else the worker wrote. "died" is not the
        task's own doing: it is worth another try.
        """
        began = time.monotonic()
        try:
            record = self._run(task, scratch, timeout, on_start, on_tick, alone, pause)
        except OSError as error:
            message = str(error)
            if error.errno == errno.EAGAIN:
                message = f"no more processes or threads can be started (ulimit -u): {message}"
            record = bad_record("error", type(error).__name__, message, errno=error.errno)
        # The fork server's seconds, where there was a child, leave out its own start.
        return {"seconds": time.monotonic() - began, **record}

    def _run(
        self,
        task: Mapping[str, Any],
        scratch: Path,
        timeout: float | None,
        on_start: Callable[[], None],
        on_tick: OnTick,
        alone: bool,
        pause: bool,
    ) -> dict[str, Any]:
        temporary = scratch / "tmp"
        temporary.mkdir(exist_ok=True)
        (scratch / "task.json").write_text(json.dumps(task), "utf-8")
        server = self._start() if alone else self._ready()
        if server is None:
            if self.stopped:
                return bad_record("died", "Stopped", "the run was stopped")
            return self._hopeless()
        if alone:
            self._private.add(server)
        number = next(self._numbers)
        variables = {"TMPDIR": str(temporary), **task.get("env", {})}
        try:
            self._running[number] = (server, scratch)
            events = server.start(number, scratch, variables)
            on_start()
            if self.stopped:
                server.process.kill()
            elif self.pausing:
                server.kill(number)
            limit = _Limit(timeout, pause)
            return self._follow(server, number, events, scratch, limit, on_tick)
        finally:
            self._running.pop(number, None)
            if alone:
                self._private.discard(server)
                server.end()

    def pause(self) -> None:
        """Ask what keeps its state to do so and end, and kill the rest. Nothing is started any
        more.
        """
        self.pausing = True
        for number, (server, scratch) in list(self._running.items()):
            if not _ask_to_pause(scratch):
                server.kill(number)

    def stop(self) -> None:
        """Kill everything that runs; calls of `run` return at once, now and later."""
        self.stopped = True
        # Importing torch takes seconds, during which the lock is held.
        for server in (*self._starting, *self._private):
            server.process.kill()
        with self._lock:
            shared = self._server
            self._server = None
        if shared is not None:
            shared.end()

    def _ready(self) -> ServerProcess | None:
        """Return the fork server, started if need be; None where it cannot be."""
        with self._lock:
            if self._server is not None and self._server.gone:
                self._server.end()
                self._server = None
            if self._server is None:
                self._server = self._start()
            return self._server

    def _start(self) -> ServerProcess | None:
        """Start a fork server; None where it cannot be, with the reason in `_broken`, or where the
        run was stopped.
        """
        last_words = ""
        for _ in range(_TRIES):
            if self.stopped or self._broken:
                return None
            server = ServerProcess(self.base, self.entry, self.preload)
            self._starting.add(server)
            answer = server.wait_ready()
            self._starting.discard(server)
            if answer == "ready":
                return server
            server.end()
            last_words = server.log()
            if answer == "broken":
                self._broken = server.message
        if not self._broken and not self.stopped:
            modules = ", ".join(self.preload)
            self._broken = f"it died three times while importing {modules}: {last_words}"
        return None

    def _hopeless(self) -> dict[str, Any]:
        reason = self._broken.strip().splitlines()[-1]
        return bad_record(
            "error",
            "ForkServerError",
            f"no child can be started: {reason}",
            traceback=self._broken,
        )

    def _follow(
        self,
        server: ServerProcess,
        number: int,
        events: Events,
        scratch: Path,
        limit: _Limit,
        on_tick: OnTick,
    ) -> dict[str, Any]:
        """Wait for a task's end, with a look at its progress now and then, and at the time."""
        while True:
            try:
                event = events.get(timeout=min(TICK, limit.left))
            except queue.Empty:
                if limit.left == 0 and not limit.enforce(server, number, scratch):
                    return limit.given_up()
                server.end_if_stopped()
                on_tick(claims.progress(scratch))
                continue
            if event["event"] == "gone":
                return bad_record("died", "HostDied", "its host process died")
            if event["event"] == "refused":
                return bad_record("died", "Refused", event["message"])
            if event["event"] == "ended":
                late = limit.seconds if limit.killed else None
                return judge(event, scratch, late, asked=limit.asked or self.pausing)


class _Limit:
    """The time that a task has: `seconds`, None for any. Then it is asked to pause if it may be,
    then killed, then given up.
    """

    def __init__(self, seconds: float | None, pause: bool) -> None:
        self.seconds = seconds
        self.asked = False
        self.killed = False
        self._pause = pause
        self._at = float("inf")
        if seconds is not None:
            self._at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until something must be done about the task."""
        return max(0.0, self._at - time.monotonic())

    def enforce(self, server: ServerProcess, number: int, scratch: Path) -> bool:
        """Take the next measure; return False where there is none left."""
        if self.killed:
            server.process.kill()  # it does not do what it is told
            return False
        if self._pause and not self.asked and _ask_to_pause(scratch):
            self.asked = True
            self._at = time.monotonic() + PAUSE_PATIENCE
        else:
            self.killed = True
            self._at = time.monotonic() + KILL_TIMEOUT
            server.kill(number)
        return True

    def given_up(self) -> dict[str, Any]:
        """Return the record of a task that none of it has ended."""
        message = f"no result after {self.seconds:g} s, and it cannot be killed"
        return bad_record("timeout", "Timeout", message)


def _ask_to_pause(scratch: Path) -> bool:
    """Ask a stage to keep its state and end; return False where it keeps none."""
    if not claims.keeps(scratch):
        return False
    try:
        (scratch / PAUSE).touch()
    except OSError:
        return False
    return True
