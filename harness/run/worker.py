"""One stage in one child process: run, time, report.

`main` never raises; its host commits what it left in `out/`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import shutil
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.access.context import Deadline
from harness.environment import snapshot
from harness.errors import Incompatible, OutOfTime
from harness.stages.job import Job
from harness.stages.payloads import Payload
from harness.stages.wire import read_payload

WATCHED = frozenset(
    {"open", "os.listdir", "os.scandir", "shutil.copyfile", "shutil.move", "os.rename", "os.remove"}
)
"""Audit events that name a path. A plugin that sets out to cheat gets around this; a mistake does
not.
"""
SYSTEM = (
    "/proc/self",
    "/sys/",
    "/dev/null",
    "/dev/urandom",
    "/dev/nvidia",
    "/lib/",
    "/lib64/",
    "/usr/lib",
    "/usr/share/",
    "/etc/",
)
"""Places that everybody looks at. Not all of /dev or /usr: stores lie in /dev/shm and /usr/local
too.
"""
REPORTED = 5000
"""Paths reported at most."""
PROGRESS_PAUSE = 0.5
"""Seconds between two reports of progress, at least."""


def main(task: Mapping[str, Any]) -> None:
    """Run the stage that `task` describes and write `record.json` beside it.

    `task`: `kind`, `payload`, `device`, `threads`, `timeout` (seconds or null), `guarded`,
    `scratch`.
    """
    scratch = Path(task["scratch"])
    opened: list[str] = []
    record: dict[str, Any] = {}
    started = time.perf_counter()
    processor_started = time.process_time()
    try:
        (scratch / "out").mkdir(exist_ok=True)
        (scratch / "work").mkdir(exist_ok=True)
        job = _job(task, scratch, record)
        body = _body(task["kind"])
        _set_threads(task["threads"])
        if task["guarded"]:
            with _watching(opened, scratch):
                body(job)
        else:
            body(job)
        record["status"] = "ok"
    except Incompatible as reason:
        record.update(status="incompatible", type="Incompatible", message=str(reason))
    except OutOfTime as late:
        record.update(status="timeout", **_described(late))
    except BaseException as error:
        record.update(status="error", **_described(error))
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
        for folder in ("out", "work", "tmp", "inputs"):
            shutil.rmtree(scratch / folder, ignore_errors=True)
        report(scratch / "record.json", record)


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


def _job(task: Mapping[str, Any], scratch: Path, record: dict[str, Any]) -> Job[Payload]:
    """Return the body's view of the task, with a progress callback that keeps to its pause."""
    last = 0.0

    def progress(step: int, total: int, loss: float | None = None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > PROGRESS_PAUSE:
            last = now
            report(scratch / "progress.json", {"step": step, "total": total, "loss": loss})

    return Job(
        payload=read_payload(task["kind"], task["payload"]),
        inputs=scratch / "inputs",
        out=scratch / "out",
        scratch=scratch / "work",
        device=task["device"],
        deadline=_deadline(task.get("timeout")),
        progress=progress,
        record=record,
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


@contextlib.contextmanager
def _watching(opened: list[str], scratch: Path) -> Iterator[None]:
    """Collect the paths opened outside Python's folders, the system's and the scratch folder."""
    allowed = _allowed(scratch)
    seen: set[str] = set()
    active = True

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if not active or event not in WATCHED:
            return
        if not args or not isinstance(args[0], str | bytes):
            return
        # Not resolve(), which reads links: those are events again.
        path = os.path.abspath(os.fsdecode(args[0]))  # noqa: PTH100
        if path in seen or len(opened) >= REPORTED:
            return
        if (path + "/").startswith(allowed) or path.startswith(SYSTEM):
            return
        seen.add(path)
        opened.append(path)

    sys.addaudithook(hook)  # cannot be removed again; the process ends with the stage
    _audit_safetensors()
    try:
        yield
    finally:
        active = False


def _allowed(scratch: Path) -> tuple[str, ...]:
    """Return Python's own folders and the scratch folder, each with a slash at the end."""
    folders = {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, str(scratch)}
    folders.discard("")
    return tuple({str(Path(folder).resolve()).rstrip("/") + "/" for folder in folders})


def _audit_safetensors() -> None:
    """Make safetensors report what it opens: it opens files outside Python, and objects of a store
    are read with it.
    """
    import safetensors  # here, since only guarded stages need it

    opening = safetensors.safe_open

    def safe_open(filename: str | os.PathLike[str], *args: Any, **options: Any) -> Any:
        sys.audit("open", os.fspath(filename), "r", 0)
        return opening(filename, *args, **options)

    for name in ("safetensors", "safetensors.torch", "safetensors.numpy"):
        if hasattr(sys.modules.get(name), "safe_open"):
            sys.modules[name].safe_open = safe_open  # type: ignore[attr-defined]


def _described(error: BaseException) -> dict[str, str]:
    return {
        "type": type(error).__name__,
        "message": str(error) or type(error).__name__,
        "traceback": "".join(traceback.format_exception(error)),
    }


def _environment(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the numbers were made with: versions, device, threads."""
    environment: dict[str, Any] = {
        **snapshot(),
        "device": task["device"],
        "threads": task["threads"],
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        environment["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        # Asking for a name would start CUDA, which takes longer than a stage that needs no GPU.
        if torch.cuda.is_initialized():
            environment["gpu"] = torch.cuda.get_device_name()
    return environment
