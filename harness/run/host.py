"""One stage, from the host's side: lock, fetch its inputs, run it in a child, look at what it left,
commit.

The child sees a scratch folder only: `inputs/<role>/` (copies), `out/` (what becomes the object),
`work/`, `tmp/`, `task.json`, `log.txt`, `progress.json` and `record.json`. What it wrote is
believed only where it can be checked.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.outcomes import Outcome
from harness.run.children import ENTRY, PRELOAD, Children
from harness.run.records import bad
from harness.run.scratch import Scratch
from harness.run.slots import Slot
from harness.stages import Stage
from harness.store import disk
from harness.store.objects import Damaged, DiskFull, Store

ATTEMPTS = 3
"""How often a stage is tried whose process is killed from outside or dies with its host."""

_OUTCOMES = {"incompatible": Outcome.INCOMPATIBLE, "timeout": Outcome.TIMED_OUT}


def _data_roots() -> tuple[Path, ...]:
    root = os.environ.get("BENCH_DATA")
    return (Path(root),) if root else ()


@dataclass(frozen=True)
class Options:
    """How to run; none of it enters a key.

    `jobs`, `threads`, `device`: see `harness.run.slots`. `timeout` in seconds a stage.
    `data_roots`: folders that guarded stages must not open, beside the store. `entry` and
    `preload`: see `harness.run.children`.
    """

    jobs: int | None = None
    threads: int | None = None
    device: str = "auto"
    timeout: float | None = None
    engine: str = "local"
    data_roots: tuple[Path, ...] = field(default_factory=_data_roots)
    entry: str = ENTRY
    preload: tuple[str, ...] = PRELOAD


@dataclass(frozen=True)
class Ended:
    """A stage that came to an end. `message` says why unless it is done; `log` is where its output
    can be read.
    """

    outcome: Outcome
    message: str = ""
    seconds: float = 0.0
    log: Path | None = None


@dataclass(frozen=True)
class Busy:
    """Another run is making it: ask again later."""


@dataclass(frozen=True)
class Missing:
    """Inputs that are not in the store, or not whole: they must be made first. `reason` for people."""

    keys: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Stopped:
    """The run was stopped before the stage ended; nothing is noted."""


Attempt = Ended | Busy | Missing | Stopped


class Host:
    """Runs stages against one store. Safe to use from several threads.

    Nothing that a stage does raises here; StoreError means that the store itself cannot be used any
    more.
    """

    def __init__(
        self, store: Store, children: Children, scratch: Scratch, options: Options
    ) -> None:
        self.store, self.children, self.scratch, self.options = store, children, scratch, options
        others = str(scratch.base.parent / f"doorbench-{os.getuid()}-")
        self._barred = (
            ("the store", _real(store.root) + os.sep),
            *((f"the data at {root}", _real(root) + os.sep) for root in options.data_roots),
            ("the scratch of another stage", others),
        )

    def run(
        self, stage: Stage, slot: Slot, notify: Callable[[Mapping[str, Any] | None], None]
    ) -> Attempt:
        """Make the stage's object unless the store has it or somebody else is making it."""
        with self.store.lock(stage.key) as ours:
            if not ours:
                return Busy()
            # Another run may have finished it between the plan and our lock.
            if self.store.has(stage.key):
                return Ended(Outcome.CACHED)
            try:
                return self._tries(stage, slot, notify)
            except DiskFull as error:
                # The scratch folder is gone by now, which may have made room for a note. If not,
                # the run stops.
                return self._fail(
                    stage, slot, bad("error", "DiskFull", f"disk full: {error}"), None
                )
            finally:
                self.store.live(stage.key, None)

    def _tries(
        self, stage: Stage, slot: Slot, notify: Callable[[Mapping[str, Any] | None], None]
    ) -> Attempt:
        for attempt in range(1, ATTEMPTS + 1):
            with self.scratch.folder(stage.key) as folder:
                try:
                    parents = self._fetch(stage, folder)
                except Damaged as error:
                    return Missing((error.key,), error.reason)
                except OSError as error:
                    return self._fail(stage, slot, _disk_trouble(error), None)
                record = self._work(stage, slot, folder, notify)
                if record["status"] == "died":
                    if self.children.stopped:
                        return Stopped()
                    if attempt < ATTEMPTS:
                        continue
                    record["message"] += f" ({ATTEMPTS} times)"
                return self._settle(stage, slot, folder, record, parents)
        raise AssertionError("the last attempt returns")

    def _fetch(self, stage: Stage, folder: Path) -> dict[str, tuple[str, str]]:
        """Copy the inputs; their keys and content digests by role. Raises Damaged."""
        parents = {}
        (folder / "inputs").mkdir()
        (folder / "out").mkdir()
        for item in stage.inputs:
            manifest = self.store.manifest(item.key)
            if manifest is None:
                raise Damaged(item.key, "not in the store, or not whole")
            self.store.fetch(item.key, item.files, folder / "inputs" / item.role)
            parents[item.role] = (item.key, manifest.digest)
        return parents

    def _work(
        self,
        stage: Stage,
        slot: Slot,
        folder: Path,
        notify: Callable[[Mapping[str, Any] | None], None],
    ) -> dict[str, Any]:
        status = {
            "title": stage.title,
            "kind": stage.kind,
            "slot": slot.name,
            "host": disk.host(),
            "pid": os.getpid(),
            "started": time.time(),
        }

        def tick(progress: Mapping[str, Any] | None) -> None:
            self.store.live(stage.key, {**status, "progress": progress, "updated": time.time()})
            notify(progress)

        tick(None)
        task = {
            "kind": stage.kind,
            "payload": dict(stage.payload),
            "guarded": stage.guarded,
            "scratch": str(folder),
            "device": slot.device,
            "threads": slot.threads,
            "env": dict(slot.env),
            "timeout": self.options.timeout,
        }
        return self.children.run(task, folder, self.options.timeout, tick)

    def _settle(
        self,
        stage: Stage,
        slot: Slot,
        folder: Path,
        record: dict[str, Any],
        parents: dict[str, tuple[str, str]],
    ) -> Ended:
        """Commit what a stage left, or note why not."""
        if record["status"] == "ok":
            try:
                self._check(stage, folder, record)
                kept = {
                    key: value
                    for key, value in record.items()
                    if key not in ("status", "opened", "signal")
                }
                kept.update(_place(slot))
                self.store.commit(
                    stage.key,
                    folder / "out",
                    spec=stage.spec,
                    code=stage.code,
                    parents=parents,
                    record=kept,
                    log=_log(folder, record),
                )
                return Ended(Outcome.DONE, seconds=record["seconds"], log=self.store.log(stage.key))
            except ValueError as error:
                record = {**record, **bad("error", "BadResult", str(error))}
        return self._fail(stage, slot, record, _log(folder, record))

    def _check(self, stage: Stage, folder: Path, record: Mapping[str, Any]) -> None:
        """Raise ValueError for results that are none, and for a stage that looked behind the wall."""
        if not disk.outputs(folder / "out"):
            raise ValueError("the stage ended well but left no file in its out folder")
        if not stage.guarded:
            return
        # A file that is a parameter may lie in a data folder; nothing in the store is ever a
        # parameter.
        named = {_real(text) for text in _strings(stage.payload) if text.startswith(os.sep)}
        for path in record.get("opened", ()):
            real = _real(path)
            if (real + os.sep).startswith(str(folder) + os.sep):
                continue
            for what, barred in self._barred:
                may = real in named and what.startswith("the data")
                if (real + os.sep).startswith(barred) and not may:
                    raise ValueError(
                        f"opened {path}, which lies in {what}: a stage may read what it was granted only"
                    )

    def _fail(self, stage: Stage, slot: Slot, record: dict[str, Any], log: Path | None) -> Ended:
        if (
            record.get("errno") in (errno.ENOSPC, errno.EDQUOT)
            or "No space left on device" in record["message"]
        ):
            record["message"] = f"disk full: {record['message']}"
        outcome = _OUTCOMES.get(record["status"], Outcome.FAILED)
        note = {key: value for key, value in record.items() if key not in ("opened", "environment")}
        note.update(_place(slot), outcome=outcome.value, kind=stage.kind, title=stage.title)
        self.store.fail(stage.key, note, log)
        kept = (self.store.failure(stage.key) or {}).get("log")
        return Ended(
            outcome, record["message"], record.get("seconds", 0.0), Path(kept) if kept else None
        )


def _log(folder: Path, record: Mapping[str, Any]) -> Path | None:
    """What the stage printed, with the traceback of its failure; None if that is nothing."""
    log = folder / "log.txt"
    if log.is_symlink() or not log.is_file():
        return None
    # Where the disk is full the traceback still stands in the record.
    with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
        file.write(str(record.get("traceback", "")))
    return log if log.stat().st_size else None


def _disk_trouble(error: OSError) -> dict[str, Any]:
    return bad(
        "error", type(error).__name__, f"its inputs cannot be copied: {error}", errno=error.errno
    )


def _place(slot: Slot) -> dict[str, Any]:
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "host": disk.host(),
        "device": slot.device,
        "threads": slot.threads,
        "finished": finished,
    }


def _real(path: str | Path) -> str:
    return os.path.realpath(path)


def _strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
