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

_TRIES = 3
"""Starts of a fork server that dies while it imports, before it is given up."""

OnTick = Callable[[dict[str, Any] | None], None]
"""Gets the content of `progress.json`, or None, about once a second."""


def _ignore(progress: dict[str, Any] | None) -> None:
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
        alone: bool = False,
    ) -> dict[str, Any]:
        """Run one task in `scratch`, an existing folder, and return what became of it.

        With `alone` it has a fork server of its own, which no other task can take along.

        `task` is JSON; its `env` is added to the child's environment. After `timeout` seconds the
        child's process group is killed. `on_tick` gets what `scratch/progress.json` tells, or None,
        about once a second. The record holds `status` (ok, error, incompatible, timeout, died),
        `type` and `message` unless ok, `seconds` (wall), `cpu_seconds`, `peak_memory` (bytes) and
        `signal` as the fork server measured them, and what else the worker wrote. "died" is not the
        task's own doing: it is worth another try.
        """
        began = time.monotonic()
        try:
            record = self._run(task, scratch, timeout, on_tick, alone)
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
        on_tick: OnTick,
        alone: bool,
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
            events = server.start(number, scratch, variables)
            if self.stopped:
                server.process.kill()
            return _follow(server, number, events, scratch, timeout, on_tick)
        finally:
            if alone:
                self._private.discard(server)
                server.end()

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
    server: ServerProcess,
    number: int,
    events: Events,
    scratch: Path,
    timeout: float | None,
    on_tick: OnTick,
) -> dict[str, Any]:
    """Wait for a task's end, with a look at its progress now and then; kill it when it is late."""
    killed = False
    deadline = None
    if timeout is not None:
        deadline = time.monotonic() + timeout
    while True:
        patience = TICK
        if deadline is not None:
            patience = min(TICK, max(0.0, deadline - time.monotonic()))
        try:
            event = events.get(timeout=patience)
        except queue.Empty:
            if deadline is not None and time.monotonic() >= deadline:
                if killed:
                    message = f"no result after {timeout:g} s, and it cannot be killed"
                    server.process.kill()  # it does not do what it is told
                    return bad_record("timeout", "Timeout", message)
                killed = True
                deadline = time.monotonic() + KILL_TIMEOUT
                server.kill(number)
            server.end_if_stopped()
            on_tick(claims.progress(scratch))
            continue
        if event["event"] == "gone":
            return bad_record("died", "HostDied", "its host process died")
        if event["event"] == "refused":
            return bad_record("died", "Refused", event["message"])
        if event["event"] == "ended":
            return judge(event, scratch, timeout if killed else None)
