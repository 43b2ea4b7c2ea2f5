"""One stage in one child process: run, time, report.

`main` never raises; its host commits what it left in `out/`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.access.context import Deadline
from harness.environment import snapshot
from harness.errors import Incompatible, OutOfTime, Paused, Unfit, said
from harness.keeping.continuing import Continuing
from harness.run.watch import watching
from harness.stages.confine import JUDGING, confine
from harness.stages.job import Job
from harness.stages.payloads import Payload
from harness.stages.wire import read_payload

MESSAGE, TRACEBACK = 4000, 200_000
"""Characters of a message and of a traceback that are reported."""
PROGRESS_PAUSE = 0.5
"""Seconds between two reports of progress, at least."""


def main(task: Mapping[str, Any]) -> None:
    """Run the stage that `task` describes and write `record.json` beside it.

    `task`: `kind`, `payload`, `device`, `threads`, `timeout` (seconds or null), `guarded`,
    `scratch`, `checkpoint` (seconds between two, 0 for none).
    """
    scratch = Path(task["scratch"])
    opened: list[str] = []
    record: dict[str, Any] = {}
    started = time.perf_counter()
    processor_started = time.process_time()
    try:
        (scratch / "out").mkdir(exist_ok=True)
        (scratch / "work").mkdir(exist_ok=True)
        job = _job(task, scratch, record, opened)
        body = _body(task["kind"])
        _set_threads(task["threads"])
        job.continuing.resume(lambda: _environment(task, job.device))
        with _walls(task, opened, record):
            body(job)
        record["status"] = "ok"
    except Incompatible as reason:
        message = str(reason)[:MESSAGE]
        record.update(status="incompatible", type="Incompatible", message=message)
    except Paused as place:
        record.update(status="paused", type="Paused", message=f"at {place}")
    except Unfit as reason:
        record.update(status="unfit", type="Unfit", message=str(reason)[:MESSAGE])
    except OutOfTime as late:
        record.update(status="timeout", **_described(late, task))
    except BaseException as error:
        record.update(status="error", **_described(error, task))
    record["seconds"] = time.perf_counter() - started
    if record.get("images"):
        record["images_per_second"] = record["images"] / record["seconds"]
    record["cpu_seconds"] = time.process_time() - processor_started
    record["peak_memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    record.update(_device_memory())
    record["opened"] = opened
    record["environment"] = _environment(task)
    try:
        report(scratch / "record.json", record)
    except OSError:  # the disk is full of what the stage wrote, which nobody will read now
        for folder in ("out", "work", "tmp"):
            shutil.rmtree(scratch / folder, ignore_errors=True)
        report(scratch / "record.json", record)


@contextlib.contextmanager
def _walls(task: Mapping[str, Any], opened: list[str], record: dict[str, Any]) -> Iterator[None]:
    """Confine and watch what runs meanwhile, as far as the stage asks for it."""
    scratch = Path(task["scratch"])
    judging = task["kind"] in JUDGING
    if judging:
        sys.dont_write_bytecode = True
        # A GPU's driver writes elsewhere, too.
        record["confined"] = task["device"] == "cpu" and confine(scratch)
    if task["guarded"]:
        with watching(opened, scratch, alone=judging):
            yield
    else:
        yield


def _body(kind: str) -> Callable[[Job[Payload]], None]:
    """Import the body of a stage kind."""
    body: Callable[[Job[Payload]], None] = importlib.import_module(f"harness.stages.{kind}").run
    return body


def _device_memory() -> dict[str, int]:
    """Return the peak of bytes that torch took of GPUs, where the stage used one: tensors,
    recordings, and what was kept for more.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    peak = 0
    for number in range(torch.cuda.device_count()):
        peak += torch.cuda.max_memory_reserved(number)
    return {"peak_device_memory": peak}


def report(path: Path, record: Mapping[str, Any]) -> None:
    """Write JSON so that a reader sees all of it or none."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record))
    partial.replace(path)


def _job(
    task: Mapping[str, Any], scratch: Path, record: dict[str, Any], opened: list[str]
) -> Job[Payload]:
    """Return the body's view of the task, with a progress callback that keeps to its pause."""
    last = 0.0

    def about() -> dict[str, Any]:
        return {"environment": _environment(task, task["device"]), "opened": list(opened)}

    continuing = Continuing(scratch, task.get("checkpoint", 0.0), about)

    def progress(step: int, total: int, loss: float | None = None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > PROGRESS_PAUSE:
            last = now
            told = {
                "step": step,
                "total": total,
                "loss": loss,
                "place": continuing.place,
                "keeps": continuing.keeps,
            }
            report(scratch / "progress.json", told)

    return Job(
        payload=read_payload(task["kind"], task["payload"]),
        inputs=scratch / "inputs",
        out=scratch / "out",
        scratch=scratch / "work",
        device=task["device"],
        deadline=_deadline(task.get("timeout")),
        progress=progress,
        record=record,
        continuing=continuing,
        opened=opened,
    )


def _deadline(timeout: float | None) -> Deadline:
    if timeout is None:
        return Deadline(None)
    # A little before the host's kill, so that a body which asks can end with a sentence.
    return Deadline(time.monotonic() + timeout - min(1.0, timeout / 10))


def _set_threads(count: int) -> None:
    """Set the number of threads: it changes bits. Only where torch is there already, which the host
    preloads.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


def _described(error: BaseException, task: Mapping[str, Any]) -> dict[str, str]:
    described = {
        "type": type(error).__name__,
        "message": said(error)[:MESSAGE],
        "traceback": "".join(traceback.format_exception(error))[-TRACEBACK:],
    }
    own = _packages(task["payload"])
    place = _place_in(error, own) or _place_in(error.__cause__, own)
    if place:
        described["place"] = place
    return described


def _place_in(error: BaseException | None, packages: Collection[str]) -> str:
    """Return file and line of the innermost frame that is in one of these packages; "" if none
    is.
    """
    place = ""
    if error is not None:
        for frame, line in traceback.walk_tb(error.__traceback__):
            module = str(frame.f_globals.get("__name__", ""))
            if module.partition(".")[0] in packages:
                place = f"{frame.f_code.co_filename}:{line}"
    return place


def _packages(payload: Any) -> set[str]:
    """Return the top-level packages that the components of a payload come from."""
    packages: set[str] = set()
    pending = [payload]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            target = value.get("target")
            if isinstance(target, str):
                packages.add(target.partition(":")[0].partition(".")[0])
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return packages


def _environment(task: Mapping[str, Any], device: str = "cpu") -> dict[str, Any]:
    """Return what the numbers were made with: versions, device, threads. The GPU is named where it
    is in use, or is the `device` that will be.
    """
    environment: dict[str, Any] = {
        **snapshot(),
        "device": task["device"],
        "threads": task["threads"],
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        environment["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        # Asking for a name would start CUDA, which takes longer than a stage that needs no GPU.
        if torch.cuda.is_initialized() or device.startswith("cuda"):
            environment["gpu"] = torch.cuda.get_device_name()
    return environment
