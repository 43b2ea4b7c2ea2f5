"""The fork server from the parent's side: its process, its environment, and the thread that listens
to it.
"""

from __future__ import annotations

import contextlib
import errno
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.environment import cache_folder

KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
KEPT_PREFIXES = (
    "LC_",
    "CUDA_",
    "NVIDIA_",
    "PYTORCH_ALLOC",
    "PYTORCH_CUDA_ALLOC",
    "TORCHINDUCTOR_CACHE",
    "TORCHINDUCTOR_COMPILE",
    "TRITON_CACHE",
    "BENCH_STEPPING",
)

KILL_TIMEOUT = 10.0
"""Seconds that a process may take to die after it has been told to."""

_MOMENT = 0.8
"""Seconds that it may be stopped."""

_START_TIMEOUT = 180.0

_numbers = itertools.count(1)

Events = queue.SimpleQueue[dict[str, Any]]
"""The messages of the fork server about one child."""


def environment() -> dict[str, str]:
    """Return what a child may know of the environment: where programs and libraries are, the
    language, which GPUs exist.

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


class ServerProcess:
    """One process of the fork server, and the thread that listens to it.

    `gone` is True once it has ended; `message` says what was wrong where it could not start.
    """

    def __init__(self, base: Path, entry: str, preload: Sequence[str]) -> None:
        self.message = ""
        self.gone = False
        self._stopped_since: float | None = None
        self._answer: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._queues: dict[int, Events] = {}
        self._pids: dict[int, int] = {}
        self._lock = threading.Lock()
        self._log = base / f"fork-server-{next(_numbers)}.txt"
        self._preload = preload
        ours, theirs = socket.socketpair()
        self._channel = ours
        command = [sys.executable, "-P", "-m", "harness.run.forkserver"]
        command += [str(theirs.fileno()), str(base), entry, *preload]
        with theirs, self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment(),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._listener = threading.Thread(target=self._listen, name="fork server", daemon=True)
        try:
            self._listener.start()
        except RuntimeError as error:  # no more threads, of which the system says as of processes
            self._channel.close()
            self.process.kill()
            self.process.wait()
            raise OSError(errno.EAGAIN, str(error)) from error

    def wait_ready(self) -> str:
        """Wait until it can fork, and return `ready`, `broken` (with `message` set), or `gone`."""
        try:
            return self._answer.get(timeout=_START_TIMEOUT)
        except queue.Empty:
            modules = ", ".join(self._preload)
            self.message = f"importing {modules} took more than {_START_TIMEOUT:g} s"
            return "broken"

    def start(self, number: int, scratch: Path, env: Mapping[str, str]) -> Events:
        """Ask for a child and return the queue of its events, with "gone" last if the fork server
        ends first.
        """
        events: Events = queue.SimpleQueue()
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

    def end_if_stopped(self) -> None:
        """Kill it where it has been stopped, as SIGSTOP does, for longer than a moment: it tells of
        no end of a child any more.
        """
        try:
            status = Path(f"/proc/{self.process.pid}/stat").read_text("utf-8", "replace")
        except OSError:
            return
        if status.rpartition(")")[2].split()[0] not in ("T", "t"):
            self._stopped_since = None
        elif self._stopped_since is None:
            self._stopped_since = time.monotonic()
        elif time.monotonic() - self._stopped_since > _MOMENT:
            self.process.kill()

    def end(self) -> None:
        """Close the socket, upon which the fork server kills its children and exits; kill it where
        it does not.
        """
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        try:
            self.process.wait(KILL_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._listener.join()
        self._channel.close()

    def log(self) -> str:
        """Return the end of what it printed."""
        try:
            return self._log.read_text("utf-8", "replace")[-2000:].strip()
        except OSError:
            return ""

    def _send(self, message: Mapping[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        # A fork server that is gone is noticed by the listener, which tells all who wait.
        with contextlib.suppress(OSError), self._lock:
            self._channel.sendall(line)

    def _listen(self) -> None:
        with contextlib.suppress(OSError), self._channel.makefile("rb") as lines:
            for line in lines:
                self._hear(json.loads(line))
        with self._lock:
            self.gone = True
            waiting = list(self._queues.values())
            pids = list(self._pids.values())
        for pid in pids:
            # The kernel does this when a fork server is killed; one that hangs or misbehaves is
            # not trusted.
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
        for events in waiting:
            events.put({"event": "gone"})
        self._answer.put("gone")

    def _hear(self, event: dict[str, Any]) -> None:
        """Pass an event on to whoever waits for it."""
        kind = event["event"]
        if kind in ("ready", "broken"):
            self.message = event.get("message", "")
            self._answer.put(kind)
            return
        number = event["id"]
        with self._lock:
            if kind == "started":
                self._pids[number] = event["pid"]
                events = self._queues[number]
            else:
                self._pids.pop(number, None)
                events = self._queues.pop(number)
        events.put(event)
