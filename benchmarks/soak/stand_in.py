"""`bench` with stages that need no torch: `python -m benchmarks.soak.stand_in run grid.toml ...`.

Planning, scheduling, children, store and reports are the real ones. Only the bodies of stages are
not: each leaves the files of its kind, made from its payload and its inputs alone, in some ten
milliseconds, and first notes that it runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

MODULE = "benchmarks.soak.stand_in"
NOTED = "executed.txt"
"""The file, beside the folder of temporary files, with a line for each start of a stage: the first
characters of its key, and the time in nanoseconds.
"""
LONGEST = 0.08
"""Seconds that a stage takes at most."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command with such stages; return its exit code."""
    # Not at the top: a stage imports this module, too, and needs none of it.
    from harness import cli
    from harness.run import execute as execution

    real = execution.execute

    def light(plan: Any, store: Any, options: Any, observers: Any = ()) -> Any:
        light_options = replace(options, entry=f"{MODULE}:work", preload=(MODULE,))
        return real(plan, store, light_options, observers)

    execution.execute = light  # type: ignore[assignment]
    return cli.main(arguments)


def work(task: Mapping[str, Any]) -> None:
    """Stand in for `harness.run.worker.main`."""
    scratch = Path(task["scratch"])
    _note(scratch)
    told = {"kind": task["kind"], "payload": task["payload"]}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for path in sorted((scratch / "inputs").rglob("*")):
        if path.is_file():
            digest.update(path.read_bytes())
    number = int.from_bytes(digest.digest()[:4])
    time.sleep(LONGEST * number / 2**32)
    for name in _left(task["kind"]):
        path = scratch / "out" / name
        path.write_text(_content(name, digest.hexdigest(), number), "utf-8")
    record = scratch / "record.partial"
    record.write_text(json.dumps({"status": "ok", "opened": []}), "utf-8")
    record.replace(scratch / "record.json")


def _note(scratch: Path) -> None:
    key, _, _ = scratch.name.partition("-")
    temporary = scratch.parent.parent
    handle = os.open(temporary.parent / NOTED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(handle, f"{key} {time.time_ns()}\n".encode())
    os.close(handle)


def _left(kind: str) -> Sequence[str]:
    from harness.run.claims import MUST_LEAVE

    return MUST_LEAVE[kind]


def _content(name: str, digest: str, number: int) -> str:
    """Return what commands can read where they read it, else text of some length."""
    if name == "rows.json":
        rows = {"acc": {"": number % 10_000 / 100}, "asr": {"": number // 10_000 % 10_000 / 100}}
        return json.dumps(rows)
    if name == "result.json":
        result: dict[str, Any] = {"flagged": None, "score": None, "targets": [], "suspects": []}
        return json.dumps({**result, "record": {"images": number % 1000, "seconds": 0.5}})
    if name == "truth.json":
        return json.dumps({"rate": number % 100 / 100})
    return f"{name} {digest}\n" * (1 + number % 40)


if __name__ == "__main__":
    sys.exit(main())
