"""A process that sees to the end of all that plugins start while they are asked, also in sessions
of their own, which no signal to a group reaches.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path
from types import FrameType

# From linux/prctl.h.
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Let orphans come to this process, not to that of the system. Linux alone has that."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> set[int]:
    """Return the pids of this process's children; none where the kernel does not list them."""
    try:
        listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii")
    except OSError:
        return set()
    return {int(pid) for pid in listed.split()}


def stay_behind() -> None:
    """Return in a child of this process, which answers; stay behind as the guard, and end as the
    child ends, or on SIGTERM, once all that it started is dead.

    Where there is no Linux there is no guard: this process itself answers.
    """
    if sys.platform != "linux":
        return
    adopt_orphans()
    child = os.fork()
    if child == 0:
        return

    def end(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)
    _, status = os.waitpid(child, 0)
    _kill_all()
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _kill_all() -> None:
    """Kill every child, and what comes here as an orphan when its parent dies, until there is
    none.
    """
    while living := children():
        for pid in living:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)
