"""One stage, from the host's side: lock, fetch its inputs, run it in a child, check what it left,
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.outcomes import Outcome
from harness.run.children import Children
from harness.run.records import bad_record
from harness.run.scratch import Scratch
from harness.run.slots import Slot
from harness.run.state import Ended, Options
from harness.run.wall import Wall
from harness.stages.stage import Stage
from harness.store import disk
from harness.store.objects import Damaged, DiskFull, Store

ATTEMPTS = 3
"""Times that a stage is tried whose process is killed from outside or dies with its host."""

_OUTCOMES = {"incompatible": Outcome.INCOMPATIBLE, "timeout": Outcome.TIMED_OUT}

Notify = Callable[[Mapping[str, Any] | None], None]
"""Gets a running stage's progress about once a second."""

Lineage = Mapping[str, tuple[str, str]]
"""Key and content digest of each input of a stage, by role."""


@dataclass(frozen=True)
class Busy:
    """The answer that another run is making it: ask again later."""


@dataclass(frozen=True)
class Missing:
    """The answer that inputs are not in the store, or not whole: they must be made first.

    `reason` is for people.
    """

    keys: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Stopped:
    """The answer that the run was stopped before the stage ended; nothing is noted."""


Attempt = Ended | Busy | Missing | Stopped


class Host:
    """Runs stages against one store. Safe to use from several threads.

    Nothing that a stage does raises here; StoreError means that the store itself cannot be used any
    more.
    """

    def __init__(
        self, store: Store, children: Children, scratch: Scratch, options: Options
    ) -> None:
        self.store = store
        self.children = children
        self.scratch = scratch
        self.options = options
        self._wall = Wall(store.root, options.data_roots, scratch.base)

    def run(self, stage: Stage, slot: Slot, notify: Notify) -> Attempt:
        """Make the stage's object unless the store has it or somebody else is making it."""
        with self.store.lock(stage.key) as ours:
            if not ours:
                return Busy()
            # Another run may have finished it between the plan and our lock.
            if self.store.has(stage.key):
                return Ended(Outcome.CACHED)
            try:
                return self._try(stage, slot, notify)
            except DiskFull as error:
                # The scratch folder is gone by now, which may have made room for a note. If not,
                # the run stops.
                record = bad_record("error", "DiskFull", f"disk full: {error}")
                return self._fail(stage, slot, record, None)
            finally:
                self.store.live(stage.key, None)

    def _try(self, stage: Stage, slot: Slot, notify: Notify) -> Attempt:
        """Run the stage, several times where its process dies through no fault of its own."""
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

    def _fetch(self, stage: Stage, folder: Path) -> Lineage:
        """Copy the inputs, and return their keys and content digests by role. Raises Damaged."""
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

    def _work(self, stage: Stage, slot: Slot, folder: Path, notify: Notify) -> dict[str, Any]:
        """Run the stage in a child, and say in `live/` how far it is; return its record."""
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
            "payload": stage.payload.to_json(),
            "guarded": stage.guarded,
            "scratch": str(folder),
            "device": slot.device,
            "threads": slot.threads,
            "env": dict(slot.env),
            "timeout": self.options.timeout,
        }
        return self.children.run(task, folder, self.options.timeout, tick)

    def _settle(
        self, stage: Stage, slot: Slot, folder: Path, record: dict[str, Any], parents: Lineage
    ) -> Ended:
        """Commit what a stage left, or note why not."""
        log = _log(folder, record)
        if record["status"] == "ok":
            try:
                self._check(stage, folder, record)
                self._commit(stage, slot, folder, record, parents, log)
            except ValueError as error:
                record.update(bad_record("error", "BadResult", str(error)))
            else:
                kept_log = self.store.log(stage.key)
                return Ended(Outcome.DONE, seconds=record["seconds"], log=kept_log)
        return self._fail(stage, slot, record, log)

    def _commit(
        self,
        stage: Stage,
        slot: Slot,
        folder: Path,
        record: Mapping[str, Any],
        parents: Lineage,
        log: Path | None,
    ) -> None:
        kept = _without(record, "status", "opened", "signal")
        kept.update(_circumstances(slot))
        self.store.commit(
            stage.key,
            folder / "out",
            spec=stage.spec,
            code=stage.code,
            parents=parents,
            record=kept,
            log=log,
        )

    def _check(self, stage: Stage, folder: Path, record: Mapping[str, Any]) -> None:
        """Raise ValueError where there is no result, and where a stage looked behind the wall."""
        if not disk.outputs(folder / "out"):
            raise ValueError("the stage ended well but left no file in its out folder")
        if stage.guarded:
            self._wall.check(stage, folder, record.get("opened", ()))

    def _fail(self, stage: Stage, slot: Slot, record: dict[str, Any], log: Path | None) -> Ended:
        """Note in the store that a stage failed, with its log."""
        full = record.get("errno") in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in record["message"]:
            record["message"] = f"disk full: {record['message']}"
        outcome = _OUTCOMES.get(record["status"], Outcome.FAILED)
        note = _without(record, "opened", "environment")
        note.update(_circumstances(slot))
        note.update(outcome=outcome.value, kind=stage.kind, title=stage.title)
        self.store.fail(stage.key, note, log)
        kept_log = None
        kept_note = self.store.failure(stage.key)
        if kept_note is not None and "log" in kept_note:
            kept_log = Path(kept_note["log"])
        return Ended(outcome, record["message"], record.get("seconds", 0.0), kept_log)


def _log(folder: Path, record: Mapping[str, Any]) -> Path | None:
    """Return the file with what the stage printed and the traceback of its failure; None if that is
    nothing.
    """
    log = folder / "log.txt"
    if log.is_symlink() or not log.is_file():
        return None
    # Where the disk is full the traceback still stands in the record.
    with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
        file.write(str(record.get("traceback", "")))
    if log.stat().st_size == 0:
        return None
    return log


def _disk_trouble(error: OSError) -> dict[str, Any]:
    message = f"its inputs cannot be copied: {error}"
    return bad_record("error", type(error).__name__, message, errno=error.errno)


def _circumstances(slot: Slot) -> dict[str, Any]:
    """Return where a stage ran, and when it finished."""
    return {
        "host": disk.host(),
        "device": slot.device,
        "threads": slot.threads,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _without(record: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}
