"""The fork server that children come from: `python -P -m harness.run.forkserver FD FOLDER ENTRY
[MODULE ...]`.

It imports the modules named last (torch) and that of ENTRY, once, and then forks one child for each
task that arrives over the inherited socket FD: a stage starts in milliseconds, with torch loaded
and nothing left from others. It runs in its own session, with a clean environment and in `/`, and
imports no plugin and touches no GPU itself. FOLDER, where the run's scratch folders lie, is named
so that a process list shows whose it is.

Why not `multiprocessing.forkserver`: that one hands a child the arguments, environment, folder and
re-imported `__main__` of the command line, and talks pickle. Here a child sees its task and nothing
else, in JSON both ways.

Messages, one JSON object a line. To the server: {"id", "scratch", "env"} starts the task in
`scratch/task.json`; {"kill": id} ends its process group. From it: {"event": "ready"}, or "broken"
with a message; then for each task "started" (pid), or "refused" (message), and "ended" (code or
signal, seconds on the clock, cpu_seconds, peak_memory in bytes).

Nothing outlives its purpose. A child leads a process group, which is killed when the child ends,
when the command line goes away (end of file on the socket), and when the server itself is killed:
each child holds the reading end of a pipe of which only the server holds the other, and has asked
the kernel to kill its group when that closes. Grandchildren that left the group come back to the
server as orphans (it is a subreaper) and are killed too.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import fcntl
import gc
import importlib
import json
import os
import resource
import selectors
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from harness.introspect.guard import adopt_orphans, children

# From linux/prctl.h and malloc.h.
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_BUG = 70
"""Exit code of a child that ended before its worker could say anything."""


def main(arguments: Sequence[str]) -> int:
    """Preload, say so, and serve until the other end of the socket closes."""
    descriptor, _, entry, *modules = arguments
    channel = socket.socket(fileno=int(descriptor))
    entry_module, _, _ = entry.partition(":")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    adopt_orphans()
    _keep_memory()
    try:
        _preload([*modules, entry_module])
    except BaseException:
        _send(channel, {"event": "broken", "message": traceback.format_exc()})
        return 1
    _send(channel, {"event": "ready"})
    ForkServer(channel, entry).serve()
    return 0


def _keep_memory() -> None:
    """Let malloc keep what is freed: a training step needs the same buffers as the last one.

    By default each large one goes back to the kernel, and comes again as thousands of pages that
    the kernel must clear. A C library without this function is left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    kept = mallopt(_M_MMAP_THRESHOLD, 2**30)
    if not kept:  # older versions take 32 MiB at most
        kept = mallopt(_M_MMAP_THRESHOLD, 2**25)
    if kept:
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _preload(modules: Sequence[str]) -> None:
    for name in modules:
        importlib.import_module(name)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RuntimeError(
            "CUDA was started while preloading: children that are forked now could not use it"
        )
    # What is here now stays: the collector of a child need not visit it, which would copy its
    # pages.
    gc.collect()
    gc.freeze()


class ForkServer:
    """The serving loop. One thread, so that forking is safe."""

    def __init__(self, channel: socket.socket, entry: str) -> None:
        self.channel = channel
        self.entry = entry
        self.tasks: dict[int, int | str] = {}
        """Task id by pid of the child that runs it."""
        self.lifelines: dict[int, int] = {}
        """Writing end of a child's lifeline, by its pid."""
        self.began: dict[int, float] = {}
        """When a child was forked, by its pid."""
        self.scratch: dict[int, str] = {}
        """Scratch folder of a child's task, by its pid."""
        self.wake_read, self.wake_write = os.pipe()
        self.buffer = b""

    def serve(self) -> None:
        """Answer messages and bury children until the socket closes; then kill what is left."""
        os.set_blocking(self.wake_read, False)
        os.set_blocking(self.wake_write, False)
        # Without a handler of Python's, nothing would be written to the descriptor.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        with contextlib.suppress(ConnectionError), selectors.DefaultSelector() as selector:
            self.selector = selector
            selector.register(self.channel, selectors.EVENT_READ)
            selector.register(self.wake_read, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if self.wake_read in ready:
                    os.read(self.wake_read, 4096)
                    self._bury()
                if self.channel.fileno() in ready and not self._listen():
                    break
        self._end()

    def _listen(self) -> bool:
        """Do what has been asked; False at the end of file."""
        data = self.channel.recv(65536)
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "kill" in request:
                self._kill(request["kill"])
            else:
                self._fork(request)
        return bool(data)

    def _kill(self, number: int | str) -> None:
        for pid, task in self.tasks.items():
            if task == number:
                _kill_group(pid)

    def _fork(self, request: Mapping[str, Any]) -> None:
        lifeline = held = -1
        try:
            lifeline, held = os.pipe()
            pid = os.fork()
        except OSError as error:
            for fd in (lifeline, held):
                if fd >= 0:
                    os.close(fd)
            message = f"no process for it: {error}"
            _send(self.channel, {"event": "refused", "id": request["id"], "message": message})
            return
        if pid == 0:
            self._child(request, lifeline, held)
        os.close(lifeline)
        with contextlib.suppress(OSError):
            # The child does this too: whoever is first, the group exists before anybody kills it.
            os.setpgid(pid, pid)
        self.began[pid] = time.monotonic()
        self.tasks[pid] = request["id"]
        self.lifelines[pid] = held
        self.scratch[pid] = request["scratch"]
        _send(self.channel, {"event": "started", "id": request["id"], "pid": pid})

    def _child(self, request: Mapping[str, Any], lifeline: int, held: int) -> NoReturn:
        """Be the child: let go of what is the server's, work, and exit."""
        code = _BUG
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            self.selector.close()
            self.channel.close()
            for fd in (self.wake_read, self.wake_write, held, *self.lifelines.values()):
                os.close(fd)
            _tie(lifeline)
            code = _work(self.entry, Path(request["scratch"]), request["env"])
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            # No exit handlers: they belong to the server.
            os._exit(code)

    def _bury(self) -> None:
        """Report children that ended, with their groups killed first: a dead leader still holds its
        group's number.
        """
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            pid = ended.si_pid
            task = self.tasks.pop(pid, None)
            if task is not None:
                _kill_group(pid)
            _, status, usage = os.wait4(pid, 0)
            if task is None:
                continue
            os.close(self.lifelines.pop(pid))
            self._sweep(self.scratch.pop(pid))
            seconds = time.monotonic() - self.began.pop(pid)
            account = _account(status, usage)
            _send(self.channel, {"event": "ended", "id": task, "seconds": seconds, **account})

    def _sweep(self, scratch: str) -> None:
        """Kill orphans that a task left outside its group: those that stand in its folder; all,
        when no task runs.
        """
        for pid in children() - self.tasks.keys():
            with contextlib.suppress(OSError):
                if not self.tasks or _folder(pid).startswith(scratch):
                    os.kill(pid, signal.SIGKILL)

    def _end(self) -> None:
        """Kill every child, and what comes back as an orphan when its parent dies, until there is
        none.
        """
        while True:
            for pid in self.tasks:
                _kill_group(pid)
            for pid in children():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            try:
                pid, _ = os.waitpid(-1, 0)
            except ChildProcessError:
                return
            self.tasks.pop(pid, None)


def _work(entry: str, scratch: Path, environment: Mapping[str, str]) -> int:
    """Settle in the scratch folder and call the worker; return its exit code."""
    os.chdir(scratch)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for fd in (1, 2):
        os.dup2(log, fd)
    os.close(log)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    with contextlib.suppress(OSError):
        # Out of memory: better this child than the processes that look after it.
        Path("/proc/self/oom_score_adj").write_text("500", "ascii")
    os.environ.update(environment)
    tempfile.tempdir = None  # what preloading may have looked up is not this task's
    sys.argv = [entry]
    module, _, name = entry.partition(":")
    worker: Callable[[dict[str, Any]], object] = getattr(importlib.import_module(module), name)
    worker(json.loads(Path("task.json").read_bytes()))
    return 0


def _account(status: int, usage: resource.struct_rusage) -> dict[str, Any]:
    """Return how a child ended and what it used, from what `wait4` says."""
    code: int | None = None
    number: int | None = None
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
    else:
        code = os.waitstatus_to_exitcode(status)
    return {
        "code": code,
        "signal": number,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_memory": usage.ru_maxrss * 1024,
    }


def _tie(lifeline: int) -> None:
    """Let the kernel kill this process group when the server goes away. It needs no thread and
    waits for no lock.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    # If it went away before that: an empty pipe would block, one whose other end is closed reads as
    # ended.
    with contextlib.suppress(BlockingIOError):
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _folder(pid: int) -> str:
    """Return the folder that a process stands in. Raises OSError where it is gone."""
    return str(Path(f"/proc/{pid}/cwd").readlink())


def _send(channel: socket.socket, message: Mapping[str, Any]) -> None:
    channel.sendall(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
