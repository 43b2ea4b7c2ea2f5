"""`bench` with stages that need no torch: `python -m benchmarks.soak.stand_in run grid.toml ...`.

Planning, scheduling, children, store and reports are the real ones. Only the bodies of stages are
not: each leaves the files of its kind, made from its payload and its inputs alone, in some ten
milliseconds, and first notes that it runs.
"""

from __future__ import annotations

import hashlib
import json
import math
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
        content = _content(name, digest.hexdigest(), number, task["payload"])
        (scratch / "out" / name).write_bytes(content)
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
    from harness.run.outputs import MUST_LEAVE

    return MUST_LEAVE[kind]


def _content(name: str, digest: str, number: int, payload: Mapping[str, Any]) -> bytes:
    """Return what commands can read where they read it, else tensors of the form that a file of the
    name has, of one image, with metadata of some length.
    """
    if name == "rows.json":
        rows = {"acc": {"": number % 10_000 / 100}, "asr": {"": number // 10_000 % 10_000 / 100}}
        return json.dumps(rows).encode()
    if name == "result.json":
        result: dict[str, Any] = {"flagged": None, "score": None, "targets": [], "suspects": []}
        record = {"images": number % 1000, "seconds": 0.5}
        return json.dumps({**result, "record": record}).encode()
    if name == "truth.json":
        return json.dumps({"rate": number % 100 / 100}).encode()
    text = f"{name} {digest}\n" * (1 + number % 40)
    if name == "panel.json":
        return json.dumps(text).encode()
    if name in ("stream.npy", "sample.npy"):
        return _stream(digest, payload["task"])
    return _safetensors(_forms(name, payload), text)


def _forms(name: str, payload: Mapping[str, Any]) -> dict[str, tuple[str, list[int]]]:
    """Return the type and shape of each tensor in a file."""
    image = ("U8", [1, 1, 1, 1])
    one = ("I64", [1])
    if name == "model.safetensors":
        return {"weight": ("F32", [1])}
    if name in ("answers.safetensors", "again.safetensors"):
        return {"logits": ("F32", [1, payload["task"]["classes"]])}
    if name == "places.safetensors":
        return {"labels": one, "mapped": one, "clean": one, "sample": one}
    if name == "panel.safetensors":
        return {"clean": image}
    if payload.get("labelled", True):
        return {"images": image, "labels": one}
    return {"images": image}


def _safetensors(forms: Mapping[str, tuple[str, list[int]]], text: str) -> bytes:
    """Return a file of zeros, with a text in its metadata."""
    widths = {"U8": 1, "F32": 4, "I64": 8}
    header: dict[str, Any] = {"__metadata__": {"text": text}}
    end = 0
    for name, (dtype, shape) in forms.items():
        begin = end
        end += widths[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    told = json.dumps(header).encode()
    return len(told).to_bytes(8, "little") + told + bytes(end)


def _stream(digest: str, task: Mapping[str, Any]) -> bytes:
    """Return a .npy file of one image, whose pixels follow from the digest."""
    shape = (1, task["height"], task["width"], task["channels"])
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    count = math.prod(shape)
    pixels = (digest.encode() * (1 + count // len(digest)))[:count]
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + pixels


if __name__ == "__main__":
    sys.exit(main())
