"""Torch-free stage bodies for the tests of the engine, and a way to make plans of them."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import Incompatible
from harness.outcomes import Outcome
from harness.stages.stage import Input, Stage
from tests.kit.payloads import AnyPayload

if TYPE_CHECKING:
    from harness.run.children import Children

ENTRY = "tests.kit.engine_stages:main"
SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")


@dataclass
class Plan:
    stages: dict[str, Stage] = field(default_factory=dict)
    outcome: dict[str, Outcome] = field(default_factory=dict)

    def add(
        self, name: str, *parents: str, kind: str = "derive", guarded: bool = True, **payload: Any
    ) -> str:
        """Add a stage called `name`; return its key."""
        stage = make(name, *parents, kind=kind, guarded=guarded, **payload)
        self.stages[stage.key], self.outcome[stage.key] = stage, Outcome.TO_RUN
        return stage.key


def make(
    name: str, *parents: str, kind: str = "derive", guarded: bool = True, **payload: Any
) -> Stage:
    inputs = tuple(Input(f"role{number}", parent, ("*",)) for number, parent in enumerate(parents))
    spec = {"name": name, "inputs": list(parents)}
    key = hashlib.sha256(json.dumps(spec).encode()).hexdigest()
    told = AnyPayload(kind, {"name": name, **payload})
    return Stage(kind, key, name, spec, {}, inputs, told, guarded)


def task(folder: Path, kind: str, **payload: Any) -> tuple[dict[str, Any], Path]:
    """Return a task for `Children.run` and its scratch folder, which is made."""
    folder.mkdir(parents=True)
    for name in ("inputs", "out"):
        (folder / name).mkdir()
    return {"kind": kind, "payload": {"name": kind, **payload}, "scratch": str(folder)}, folder


def in_thread(children: Children, *arguments: Any) -> tuple[threading.Thread, list[dict[str, Any]]]:
    """Run a task in a thread; its record is added to the list that is returned."""
    records: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: records.append(children.run(*arguments)))
    thread.start()
    return thread, records


def main(task: Mapping[str, Any]) -> None:
    """Do the worker's part: run, then leave a record."""
    record: dict[str, Any] = {
        "status": "ok",
        "opened": [f"/{path}" for path in task["payload"].get("opened", [])],
    }
    try:
        BODIES[task["kind"]](Path(task["scratch"]), task["payload"])
    except Incompatible as reason:
        record = {"status": "incompatible", "type": "Incompatible", "message": str(reason)}
    except Exception as error:
        record = {
            "status": "error",
            "type": type(error).__name__,
            "message": str(error),
            "traceback": "Traceback: here\n",
        }
    Path("record.partial").write_text(json.dumps(record), "utf-8")
    Path("record.partial").replace("record.json")


def derive(scratch: Path, payload: Mapping[str, Any]) -> None:
    """Leave a file that depends on the name and all inputs."""
    time.sleep(payload.get("sleep", 0.0))
    text = payload["name"]
    for path in sorted((scratch / "inputs").rglob("*")):
        if path.is_file():
            text += hashlib.sha256(path.read_bytes()).hexdigest()
    (scratch / "out" / "result.txt").write_text(text, "utf-8")


def unsteady(scratch: Path, payload: Mapping[str, Any]) -> None:
    (scratch / "out" / "result.txt").write_text(str(time.time_ns()), "utf-8")


def fail(scratch: Path, payload: Mapping[str, Any]) -> None:
    print("about to fail")
    raise ValueError(payload.get("message", "no good"))


def refuse(scratch: Path, payload: Mapping[str, Any]) -> None:
    raise Incompatible("makes no sense here")


def no_room(scratch: Path, payload: Mapping[str, Any]) -> None:
    raise OSError(28, "No space left on device")


def hang(scratch: Path, payload: Mapping[str, Any]) -> None:
    """Run for ever, with a child in its group and one in a session of its own; tell their pids."""
    pids = [
        os.getpid(),
        *(subprocess.Popen([*SLEEPER], start_new_session=own).pid for own in (False, True)),
    ]
    told = Path(payload["tell"])
    told.with_suffix(".part").write_text(json.dumps(pids), "utf-8")
    told.with_suffix(".part").replace(told)
    if payload.get("stuck"):
        # Holds the interpreter's lock: no Python thread or signal handler of this process runs any
        # more.
        ctypes.PyDLL(None).sleep(600)
    time.sleep(600)


def leave_behind(scratch: Path, payload: Mapping[str, Any]) -> None:
    """End well, but leave a process in its group and one in another session."""
    pids = [
        subprocess.Popen([*SLEEPER], start_new_session=own_session).pid
        for own_session in (False, True)
    ]
    Path(payload["tell"]).write_text(json.dumps(pids), "utf-8")
    derive(scratch, payload)


def kill_self(scratch: Path, payload: Mapping[str, Any]) -> None:
    """Die at once, the first `times` times: the file counts them."""
    count = Path(payload["count"])
    with count.open("a", encoding="utf-8") as file:
        file.write("x")
    if count.stat().st_size <= payload.get("times", 99):
        os.kill(os.getpid(), payload.get("signal", signal.SIGKILL))
        time.sleep(5)
    derive(scratch, payload)


def exit_early(scratch: Path, payload: Mapping[str, Any]) -> None:
    os._exit(3)


def nothing(scratch: Path, payload: Mapping[str, Any]) -> None:
    pass


def link(scratch: Path, payload: Mapping[str, Any]) -> None:
    (scratch / "out" / "result.txt").symlink_to("/etc/passwd")


def surroundings(scratch: Path, payload: Mapping[str, Any]) -> None:
    """Write down what a child sees of the world."""
    files = sorted(str(path.relative_to(scratch)) for path in scratch.rglob("*"))
    seen = {
        "cwd": str(Path.cwd()),
        "environment": dict(os.environ),
        "arguments": sys.argv,
        "descriptors": sorted(
            str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()
        ),
        "group": [os.getpid(), os.getpgid(0)],
        "modules": sorted(sys.modules),
        "files": files,
        "stdin": sys.stdin.read(),
        "random": [hash("a"), __import__("tempfile").gettempdir()],
    }
    print("to the log")
    (scratch / "out" / "seen.json").write_text(json.dumps(seen), "utf-8")


def reuse(scratch: Path, payload: Mapping[str, Any]) -> None:
    """Fill and free a buffer again and again; write down the page faults of each round."""
    faults = []
    for _ in range(payload["times"]):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        bytearray(b"x") * (payload["megabytes"] << 20)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    (scratch / "out" / "faults.json").write_text(json.dumps(faults))


def steps(scratch: Path, payload: Mapping[str, Any]) -> None:
    (scratch / "progress.json").write_text(
        json.dumps({"step": 3, "total": 10, "loss": 0.5}), "utf-8"
    )
    time.sleep(payload.get("pause", 1.2))
    derive(scratch, payload)


def chain(scratch: Path, payload: Mapping[str, Any]) -> None:
    """Hash the name again and again, and leave a checkpoint after each time."""
    text, done = payload["name"], 0
    if (scratch / "resume").is_dir():
        text, done = json.loads((scratch / "resume" / "state.json").read_bytes())
        assert (scratch / "resume" / "0.safetensors").read_text() == text * 10_000
    about = {"environment": {}, "opened": [], "cpu_seconds": 0.0}
    for number in range(done + 1, payload["times"] + 1):
        text = hashlib.sha256(text.encode()).hexdigest()
        place = scratch / "checkpoint" / f"{number}.tmp"
        place.mkdir(parents=True)
        (place / "0.safetensors").write_text(text * 10_000)
        (place / "state.json").write_text(json.dumps([text, number]))
        (place / "about.json").write_text(json.dumps({**about, "place": f"step {number}"}))
        place.rename(scratch / "checkpoint" / str(number))
        shutil.rmtree(scratch / "checkpoint" / str(number - 2), ignore_errors=True)
    (scratch / "out" / "result.txt").write_text(text)


def chained(name: str, times: int) -> str:
    """Return what `chain` leaves."""
    text = name
    for _ in range(times):
        text = hashlib.sha256(text.encode()).hexdigest()
    return text


def do(scratch: Path, payload: Mapping[str, Any]) -> None:
    """Run the text `code`, which finds the modules that it needs and `scratch`."""
    names = {"scratch": scratch, "Path": Path, "json": json, "os": os, "signal": signal}
    exec(payload["code"], {**names, "time": time, "payload": payload})


BODIES: dict[str, Callable[[Path, Mapping[str, Any]], None]] = {
    "chain": chain,
    "derive": derive,
    "do": do,
    "exit": exit_early,
    "fail": fail,
    "hang": hang,
    "kill": kill_self,
    "leave": leave_behind,
    "link": link,
    "no-room": no_room,
    "nothing": nothing,
    "refuse": refuse,
    "reuse": reuse,
    "steps": steps,
    "surroundings": surroundings,
    "unsteady": unsteady,
}


def alive(pid: int) -> bool:
    """Tell whether a process still runs; a zombie does not."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] not in "ZX"
        )
    except OSError:
        return False


def gone(pids: list[int], patience: float = 5.0) -> bool:
    """Tell whether all processes end within `patience` seconds."""
    until = time.monotonic() + patience
    while any(map(alive, pids)):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def wait_for(path: Path, patience: float = 20.0) -> Any:
    """Return the JSON in a file that somebody is about to write."""
    until = time.monotonic() + patience
    while not path.exists():
        assert time.monotonic() < until, f"{path} was never written"
        time.sleep(0.02)
    return json.loads(path.read_text("utf-8"))
