"""What became of a task, as a JSON record: from the exit of its process and from what it wrote
itself.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STATUSES = ("ok", "error", "incompatible", "timeout")
"""What a worker may say of a task in `record.json`. The host adds "died"."""

CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS}
)
"""Signals that a process brings on itself. Others come from outside (out of memory, an operator):
worth another try.
"""

PROGRESS_LIMIT = 1 << 16
"""Bytes of `progress.json` that are read."""


def judge(event: Mapping[str, Any], scratch: Path, late: float | None) -> dict[str, Any]:
    """What the exit of a child and the record it left, if any, amount to."""
    usage = {
        "cpu_seconds": event["cpu_seconds"],
        "peak_memory": event["peak_memory"],
        "signal": event["signal"],
    }
    try:
        # The record is the last thing that a worker writes: with it, the work is done, whatever
        # came after.
        record = json.loads((scratch / "record.json").read_bytes())
        if isinstance(record, dict) and record.get("status") in STATUSES:
            return {
                **usage,
                **record,
                "type": str(record.get("type", "")),
                "message": str(record.get("message", "")),
            }
        return {
            **usage,
            **bad("error", "BadRecord", f"its record has no status among {', '.join(STATUSES)}"),
        }
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        return {**usage, **bad("error", "BadRecord", f"its record cannot be read: {error}")}
    if late is not None:
        return {**usage, **bad("timeout", "Timeout", f"no result after {late:g} s")}
    number = event["signal"]
    if number is None:
        return {
            **usage,
            **bad("error", "Exit", f"it ended with exit code {event['code']} and left no record"),
        }
    status = "error" if number in CRASHES else "died"
    return {**usage, **bad(status, "Signal", f"killed by signal {number}{_signal_name(number)}")}


def progress(scratch: Path) -> dict[str, Any] | None:
    """What the worker last said of how far it is, if anything."""
    try:
        with (scratch / "progress.json").open("rb") as file:
            found = json.loads(file.read(PROGRESS_LIMIT))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return f" ({signal.Signals(number).name})"
    return ""


def bad(status: str, kind: str, message: str, **more: Any) -> dict[str, Any]:
    """A record of something that did not go well."""
    return {"status": status, "type": kind, "message": message, **more}
