"""The fate of a task, as a JSON record, after the exit of its process and what it wrote itself."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STATUSES = ("ok", "error", "incompatible", "timeout")
"""Statuses that a worker may give a task in `record.json`. The host adds "died"."""

CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS}
)
"""Signals that a process brings on itself. Others come from outside (out of memory, an operator):
worth another try.
"""

PROGRESS_LIMIT = 1 << 16
"""Bytes of `progress.json` that are read."""


def bad_record(status: str, kind: str, message: str, **more: Any) -> dict[str, Any]:
    """Return a record of something that did not go well."""
    return {"status": status, "type": kind, "message": message, **more}


def judge(event: Mapping[str, Any], scratch: Path, late: float | None) -> dict[str, Any]:
    """Return the record that the exit of a child and the record it left, if any, amount to.

    `event` is the fork server's message about its end; `late` is the time-out in seconds where the
    child was killed for it.
    """
    usage = {
        "cpu_seconds": event["cpu_seconds"],
        "peak_memory": event["peak_memory"],
        "signal": event["signal"],
    }
    # The record is the last thing that a worker writes: with it, the work is done, whatever came
    # after.
    record = _written(scratch / "record.json")
    if record is None:
        record = _without_record(event, late)
    return {**usage, **record}


def _written(path: Path) -> dict[str, Any] | None:
    """Return the record that a worker wrote, or what is wrong with it; None if there is none."""
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return bad_record("error", "BadRecord", f"its record cannot be read: {error}")
    if not isinstance(record, dict) or record.get("status") not in STATUSES:
        known = ", ".join(STATUSES)
        return bad_record("error", "BadRecord", f"its record has no status among {known}")
    record["type"] = str(record.get("type", ""))
    record["message"] = str(record.get("message", ""))
    return record


def _without_record(event: Mapping[str, Any], late: float | None) -> dict[str, Any]:
    """Return a record of a child that ended without leaving one."""
    if late is not None:
        return bad_record("timeout", "Timeout", f"no result after {late:g} s")
    number = event["signal"]
    if number is None:
        return bad_record(
            "error", "Exit", f"it ended with exit code {event['code']} and left no record"
        )
    status = "error" if number in CRASHES else "died"
    return bad_record(status, "Signal", f"killed by signal {number}{_signal_name(number)}")


def _signal_name(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""


def last_progress(scratch: Path) -> dict[str, Any] | None:
    """Return the worker's last report of how far it is, or None if there is none."""
    try:
        with (scratch / "progress.json").open("rb") as file:
            progress = json.loads(file.read(PROGRESS_LIMIT))
    except (OSError, ValueError):
        return None
    if isinstance(progress, dict):
        return progress
    return None
