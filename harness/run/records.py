"""The fate of a task, as a JSON record, after the exit of its process and what it wrote itself."""

from __future__ import annotations

import errno
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.environment import is_full
from harness.run import claims

CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS}
)
"""Signals that a process brings on itself. Others come from outside (out of memory, an operator):
worth another try.
"""


def bad_record(status: str, kind: str, message: str, **more: Any) -> dict[str, Any]:
    """Return a record of something that did not go well."""
    return {"status": status, "type": kind, "message": message, **more}


def judge(
    event: Mapping[str, Any], scratch: Path, late: float | None, *, asked: bool = False
) -> dict[str, Any]:
    """Return the record that the exit of a child and the record it left, if any, amount to.

    `event` is the fork server's message about its end; `late` is the time-out in seconds where the
    child was killed for it; `asked` whether it was asked to pause. What the fork server measured
    stands, whatever the child says.
    """
    # The record is the last thing that a worker writes: with it, the work is done, whatever came
    # after.
    try:
        record = claims.record(scratch)
    except ValueError as error:
        record = bad_record("error", "BadRecord", f"its record is not as it should be: {error}")
    if record is None or (late is not None and event["signal"] and record["status"] == "ok"):
        record = _without_record(event, scratch, late)
    if record["status"] == "paused" and not asked:
        record = bad_record("error", "BadRecord", "it says that it paused, which nobody asked for")
    measured = {name: event[name] for name in ("seconds", "cpu_seconds", "peak_memory", "signal")}
    images = record.get("images")
    if images and measured["seconds"]:
        measured["images_per_second"] = images / measured["seconds"]
    return {**record, **measured}


def cause(record: Mapping[str, Any]) -> str:
    """Return why something did not go well. Of an exception in a component, the first line says its
    type, and file and line in the component's own code: `ValueError: too few, at /x/mine.py:12`.
    """
    message = str(record["message"])
    place = record.get("place")
    if not place:
        return message
    first, line_break, rest = message.strip().partition("\n")
    if not first.startswith(record["type"]):
        first = f"{record['type']}: {first}"
    return f"{first}, at {' '.join(str(place).split())}{line_break}{rest}"


def _without_record(event: Mapping[str, Any], scratch: Path, late: float | None) -> dict[str, Any]:
    """Return a record of a child that ended without leaving one."""
    if late is not None:
        return bad_record("timeout", "Timeout", f"no result after {late:g} s")
    number = event["signal"]
    if number is None:
        message = f"it ended with exit code {event['code']} and left no record"
        if is_full(scratch):
            return bad_record("error", "Exit", message, errno=errno.ENOSPC)
        return bad_record("error", "Exit", message)
    status = "error" if number in CRASHES else "died"
    return bad_record(status, "Signal", f"killed by signal {number}{_signal_name(number)}")


def _signal_name(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""
