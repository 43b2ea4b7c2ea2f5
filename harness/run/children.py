"""One process a task, from the parent's side: starts the nursery when first needed, and again when
it died.

Whatever happens to a child comes back as a record, never as an exception, so that any kind of host
can pass it on.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.environment import cache_folder
from harness.run.records import bad, judge, progress

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
)
"""What children find imported. Never a plugin, nothing that touches a GPU."""

ENTRY = "harness.run.worker:main"
"""The function that a child calls with its task."""

TICK = 1.0
"""Seconds between two looks at a task's progress."""

KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
KEPT_PREFIXES = (
    *("LC_", "CUDA_", "NVIDIA_", "PYTORCH_ALLOC", "PYTORCH_CUDA_ALLOC"),
    *("TORCHINDUCTOR_CACHE", "TORCHINDUCTOR_COMPILE", "TRITON_CACHE", "BENCH_STEPPING"),
)

_START_TIMEOUT = 180.0
_KILL_TIMEOUT = 10.0


def environment() -> dict[str, str]:
    """What a child may know of the environment: where programs and libraries are, the language,
    which GPUs exist.

    Python's path is the parent's, so that children import what the parent discovered. Set orders
    and matrix products are made repeatable.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or name.startswith(KEPT_PREFIXES)
    }
    path = [str(Path(entry or ".").absolute()) for entry in sys.path]
    return {
        # What torch.compile made of a network serves later stages and runs. It works in the stage's
        # own process: one that forks or starts others would not be one that can be killed and
        # counted.
        "TORCHINDUCTOR_CACHE_DIR": str(cache_folder() / "compiled"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        **kept,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        # Forking is for processes of one thread; a task sets its own number.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


class Children:
    """Runs tasks in child processes; safe to call from several threads.

    `base` is a folder for the nursery's log; `entry` names the function that gets the task,
    `preload` the modules that children find imported.
    """

    def __init__(self, base: Path, *, entry: str = ENTRY, preload: Sequence[str] = PRELOAD) -> None:
        self.base, self.entry, self.preload = base, entry, tuple(preload)
        self.stopped = False
        self._lock = threading.Lock()
        self._nursery: _Nursery | None = None
        self._starting: _Nursery | None = None
        self._broken = ""
        self._numbers = itertools.count(1)

    def run(
        self,
        task: Mapping[str, Any],
        scratch: Path,
        timeout: float | None = None,
        on_tick: Callable[[dict[str, Any] | None], None] = lambda found: None,
    ) -> dict[str, Any]:
        """Run one task in `scratch`, an existing folder, and return what became of it.

        `task` is JSON; its `env` is added to the child's environment. After `timeout` seconds the
        child's process group is killed. `on_tick` gets the content of `scratch/progress.json`, or
        None, about once a second. The record holds `status` (ok, error, incompatible, timeout,
        died), `type` and `message` unless ok, `seconds` (wall), `cpu_seconds`, `peak_memory`
        (bytes), `signal`, and what the worker wrote. "died" is not the task's own doing: it is
        worth another try.
        """
        began = time.monotonic()
        try:
            (scratch / "tmp").mkdir(exist_ok=True)
            (scratch / "task.json").write_text(json.dumps(task), "utf-8")
            nursery = self._ready()
            if nursery is None:
                return (
                    bad("died", "Stopped", "the run was stopped")
                    if self.stopped
                    else self._hopeless()
                )
            number = next(self._numbers)
            events = nursery.start(
                number, scratch, {"TMPDIR": str(scratch / "tmp"), **task.get("env", {})}
            )
            record = _follow(nursery, number, events, scratch, timeout, on_tick)
        except OSError as error:
            record = bad("error", type(error).__name__, str(error), errno=error.errno)
        return {"seconds": time.monotonic() - began, **record}

    def stop(self) -> None:
        """Kill everything that runs; calls of `run` return at once, now and later."""
        self.stopped = True
        # Importing torch takes seconds, during which the lock is held.
        if (starting := self._starting) is not None:
            starting.process.kill()
        with self._lock:
            nursery, self._nursery = self._nursery, None
        if nursery is not None:
            nursery.end()

    def _ready(self) -> _Nursery | None:
        """The nursery, started if need be; None where it cannot be."""
        with self._lock:
            if self._nursery is not None and not self._nursery.gone:
                return self._nursery
            if self._nursery is not None:
                self._nursery.end()
                self._nursery = None
            for _ in range(3):
                if self.stopped or self._broken:
                    return None
                nursery = self._starting = _Nursery(self.base, self.entry, self.preload)
                answer = nursery.wait_ready()
                self._starting = None
                if answer == "ready":
                    self._nursery = nursery
                    return nursery
                nursery.end()
                if answer == "broken":
                    self._broken = nursery.message
            if not (self._broken or self.stopped):
                self._broken = f"it died three times while importing {', '.join(self.preload)}: {nursery.log()}"
            return None

    def _hopeless(self) -> dict[str, Any]:
        reason = self._broken.strip().splitlines()[-1]
        return bad(
            "error", "NurseryError", f"no child can be started: {reason}", traceback=self._broken
        )


class _Nursery:
    """One nursery process, and the thread that listens to it."""

    def __init__(self, base: Path, entry: str, preload: Sequence[str]) -> None:
        self.message = ""
        self.gone = False
        self._answer: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._queues: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._pids: dict[int, int] = {}
        self._lock = threading.Lock()
        self._log = base / "nursery.txt"
        self._preload = preload
        ours, theirs = socket.socketpair()
        self._channel = ours
        with theirs, self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "harness.run.forkserver",
                    str(theirs.fileno()),
                    str(base),
                    entry,
                    *preload,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment(),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._listener = threading.Thread(target=self._listen, name="nursery", daemon=True)
        self._listener.start()

    def wait_ready(self) -> str:
        """`ready`, `broken` (with `message` set), or `gone`."""
        try:
            return self._answer.get(timeout=_START_TIMEOUT)
        except queue.Empty:
            self.message = (
                f"importing {', '.join(self._preload)} took more than {_START_TIMEOUT:g} s"
            )
            return "broken"

    def start(
        self, number: int, scratch: Path, env: Mapping[str, str]
    ) -> queue.SimpleQueue[dict[str, Any]]:
        """Ask for a child; its events come on the queue, "gone" last if the nursery goes first."""
        events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        with self._lock:
            if self.gone:
                events.put({"event": "gone"})
                return events
            self._queues[number] = events
        self._send({"id": number, "scratch": str(scratch), "env": dict(env)})
        return events

    def kill(self, number: int) -> None:
        """End a child and its process group."""
        self._send({"kill": number})

    def end(self) -> None:
        """Close the socket, upon which the nursery kills its children and exits; make sure that it
        does.
        """
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        try:
            self.process.wait(_KILL_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._listener.join()
        self._channel.close()

    def log(self) -> str:
        """The end of what it printed."""
        with contextlib.suppress(OSError):
            return self._log.read_text("utf-8", "replace")[-2000:].strip()
        return ""

    def _send(self, message: Mapping[str, Any]) -> None:
        # A nursery that is gone is noticed by the listener, which tells all who wait.
        with contextlib.suppress(OSError), self._lock:
            self._channel.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        with contextlib.suppress(OSError), self._channel.makefile("rb") as lines:
            for line in lines:
                self._hear(json.loads(line))
        with self._lock:
            self.gone = True
            waiting, pids = list(self._queues.values()), list(self._pids.values())
        for pid in pids:
            # The kernel does this when a nursery is killed; a nursery that hangs or lost its wits
            # is not trusted.
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
        for events in waiting:
            events.put({"event": "gone"})
        self._answer.put("gone")

    def _hear(self, event: dict[str, Any]) -> None:
        if event["event"] in ("ready", "broken"):
            self.message = event.get("message", "")
            self._answer.put(event["event"])
            return
        with self._lock:
            if event["event"] == "started":
                self._pids[event["id"]] = event["pid"]
                events = self._queues[event["id"]]
            else:
                self._pids.pop(event["id"], None)
                events = self._queues.pop(event["id"])
        events.put(event)


def _follow(
    nursery: _Nursery,
    number: int,
    events: queue.SimpleQueue[dict[str, Any]],
    scratch: Path,
    timeout: float | None,
    on_tick: Callable[[dict[str, Any] | None], None],
) -> dict[str, Any]:
    """Wait for a task's end, with a look at its progress now and then; kill it when it is late."""
    late, deadline = False, None if timeout is None else time.monotonic() + timeout
    while True:
        left = TICK if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            event = events.get(timeout=min(TICK, left))
        except queue.Empty:
            if deadline is not None and time.monotonic() >= deadline:
                if late:
                    return bad(
                        "timeout",
                        "Timeout",
                        f"no result after {timeout:g} s, and it cannot be killed",
                    )
                late, deadline = True, time.monotonic() + _KILL_TIMEOUT
                nursery.kill(number)
            on_tick(progress(scratch))
            continue
        if event["event"] == "started":
            continue
        if event["event"] == "gone":
            return bad("died", "HostDied", "its host process died")
        if event["event"] == "refused":
            return bad("died", "Refused", event["message"])
        return judge(event, scratch, timeout if late else None)
