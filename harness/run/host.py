"""One stage, from the host's side: lock, fetch its inputs, run it in a child, check what it left,
commit.

The child sees a scratch folder only: `inputs/<role>/` (copies), `out/` (what becomes the object),
`work/`, `tmp/`, `task.json`, `log.txt`, `progress.json` and `record.json`; `resume/` (what was
kept of it), `checkpoint/` (what is to be kept) and `pause`. What it wrote is believed only where it
can be checked.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.outcomes import Outcome
from harness.run import claims, outputs
from harness.run.checkpoints import Keeper
from harness.run.children import PAUSE_PATIENCE, Children
from harness.run.company import Company, Presence
from harness.run.records import bad_record, cause
from harness.run.slots import Slot
from harness.run.state import Ended, Options
from harness.run.wall import Trespass, Wall
from harness.stages.stage import Stage
from harness.store import disk, plain
from harness.store.objects import Damaged, DiskFull, Store
from harness.store.scratch import Scratch

ATTEMPTS = 3
"""Times that a stage is tried whose process is killed from outside, or with a fork server of its
own.
"""

REPEATS = 5
"""Times that a stage is tried whose inputs or surroundings are spoilt."""

SPOILT = "it ran beside a stage that was caught among others at work"
"""Why a result is not believed whose stage has done nothing wrong."""

_OUTCOMES = {"incompatible": Outcome.INCOMPATIBLE, "timeout": Outcome.TIMED_OUT}

PAUSED = "its time was up, and its state is kept: the next run goes on from there"

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


@dataclass
class _Tries:
    """The tries at a stage so far: how often its process died and its result was spoilt, whether it
    has a fork server of its own by now, and whether what was kept of it turned out to be of no use.
    """

    deaths: int = 0
    spoilt: int = 0
    alone: bool = False
    over: bool = False


class Host:
    """The runner of stages against one store. Safe to use from several threads.

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
        self._company = Company()

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
        """Run the stage, several times where its process dies, or its result is spoilt, through no
        fault of its own.
        """
        tries = _Tries()
        while True:
            with self.scratch.folder(stage.key) as folder:
                presence = self._company.enter(stage.key)
                try:
                    attempt = self._attempt(stage, slot, folder, notify, tries, presence)
                finally:
                    suspect = self._company.leave(presence)
            if suspect:
                self.store.checkpoints.drop(stage.key)
            if attempt is None:
                continue
            if not suspect or not isinstance(attempt, Ended) or attempt.beside is not None:
                return attempt
            tries.spoilt += 1
            if attempt.outcome is Outcome.DONE:
                self.store.set_aside(stage.key, SPOILT)
            if tries.spoilt == REPEATS:
                message = f"{SPOILT} ({REPEATS} times)"
                return self._fail(stage, slot, bad_record("error", "Spoilt", message), None)

    def _attempt(
        self,
        stage: Stage,
        slot: Slot,
        folder: Path,
        notify: Notify,
        tries: _Tries,
        presence: Presence,
    ) -> Attempt | None:
        """Run the stage once; None if it is to be tried again."""
        try:
            parents, given = self._fetch(stage, folder)
            keeper = self._keeper(stage, folder, parents)
            if not tries.over and self.options.checkpoint:
                keeper.resume()
        except Damaged as error:
            return Missing((error.key,), error.reason)
        except OSError as error:
            return self._fail(stage, slot, _disk_trouble(error), None)
        record = self._work(stage, slot, folder, notify, keeper, alone=tries.alone)
        died = record["status"] == "died"
        if died and (self.children.stopped or self.children.pausing):
            return Stopped()
        try:
            self._check_neighbours(stage, folder, record)
        except Trespass as error:
            keeper.drop()
            record.update(bad_record("error", "Trespass", str(error)))
            ended = self._fail(stage, slot, record, _log(folder, record))
            return replace(ended, beside=self._company.catch(presence))
        if self._try_again(folder, record, given, tries, keeper):
            return None
        if record["status"] != "paused":
            return self._settle(stage, slot, folder, record, parents)
        if self.children.pausing:
            return Stopped()
        self.store.clear_failure(stage.key)
        return Ended(Outcome.PAUSED, f"{PAUSED} ({keeper.place})", record["seconds"])

    def _try_again(
        self,
        folder: Path,
        record: dict[str, Any],
        given: Mapping[str, str],
        tries: _Tries,
        keeper: Keeper,
    ) -> bool:
        """Tell whether an attempt came to nothing through no fault of the stage's own; count it."""
        if record["status"] == "died":
            if record["type"] == "HostDied" and not tries.alone:
                # One of those that shared the fork server may have killed it: nobody counts that,
                # and from now on each of them has one of its own.
                tries.alone = True
                return True
            tries.deaths += 1
            if tries.deaths < ATTEMPTS:
                return True
            record["message"] += f" ({ATTEMPTS} times)"
        if record["status"] == "unfit" and keeper.continued:
            keeper.refuse(record["message"])
            tries.over = True
            return True
        altered = _altered(folder / "inputs", given)
        if altered:
            keeper.drop()
            tries.spoilt += 1
            if tries.spoilt < REPEATS:
                return True
            message = f"its inputs were altered while it worked: {altered} ({REPEATS} times)"
            record.update(bad_record("error", "Altered", message))
        return False

    def _fetch(self, stage: Stage, folder: Path) -> tuple[Lineage, dict[str, str]]:
        """Copy the inputs; return their keys and content digests by role, and the SHA-256 of each
        file by its name in `inputs/`. Raises Damaged.
        """
        parents = {}
        given = {}
        (folder / "inputs").mkdir()
        (folder / "out").mkdir()
        for item in stage.inputs:
            manifest = self.store.manifest(item.key)
            if manifest is None:
                raise Damaged(item.key, "not in the store, or not whole")
            copied = self.store.fetch(item.key, item.files, folder / "inputs" / item.role)
            for name, entry in copied.items():
                given[f"{item.role}/{name}"] = entry["sha256"]
            parents[item.role] = (item.key, manifest.digest)
        return parents, given

    def _keeper(self, stage: Stage, folder: Path, parents: Lineage) -> Keeper:
        """Return the keeper of one attempt's checkpoints."""

        def check(opened: Iterable[str]) -> None:
            if stage.guarded:
                self._wall.check(stage, folder, opened)
                self._wall.check_neighbours(folder, opened, claims.trespasses(folder))

        return Keeper(self.store, stage, folder, parents, check)

    def _check_neighbours(self, stage: Stage, folder: Path, record: Mapping[str, Any]) -> None:
        """Raise Trespass where a stage that runs plugin code was among others, however it ended."""
        if stage.guarded:
            told = claims.trespasses(folder)
            self._wall.check_neighbours(folder, record.get("opened", ()), told)

    def _work(
        self,
        stage: Stage,
        slot: Slot,
        folder: Path,
        notify: Notify,
        keeper: Keeper,
        *,
        alone: bool,
    ) -> dict[str, Any]:
        """Run the stage in a child, say in `live/` how far it is, and keep its checkpoints; return
        its record.
        """
        status = {
            "title": stage.title,
            "kind": stage.kind,
            "slot": slot.name,
            "host": disk.host(),
            "pid": os.getpid(),
            "started": time.time(),
        }

        def tick(progress: Mapping[str, Any] | None) -> None:
            keeper.take()
            now = {**status, **keeper.status(), "progress": progress, "updated": time.time()}
            self.store.live(stage.key, now)
            if keeper.continued:
                past = {"continued": keeper.continued, "earlier": keeper.seconds}
                progress = {**(progress or {}), **past}
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
            "checkpoint": self.options.checkpoint,
        }
        pause = self.options.pause
        if pause and self.options.timeout is not None:
            task["timeout"] = self.options.timeout + PAUSE_PATIENCE
        record = self.children.run(
            task,
            folder,
            self.options.timeout,
            tick,
            on_start=keeper.begin,
            alone=alone,
            pause=pause,
        )
        if record["status"] != "ok":
            keeper.take()
        keeper.add_up(record)
        return record

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
                self.store.checkpoints.drop(stage.key)
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
        kept = _without(record, "status", "type", "message", "place", "opened", "signal")
        kept.update(_circumstances(slot))
        environment = record.get("environment", {})
        kept["environment"] = {**environment, "device": slot.device, "threads": slot.threads}
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
        """Raise ValueError where there is no result, or one that cannot be believed, and where a
        stage looked behind the wall.
        """
        outputs.check(stage, folder)
        if stage.guarded:
            self._wall.check(stage, folder, record.get("opened", ()))

    def _fail(self, stage: Stage, slot: Slot, record: dict[str, Any], log: Path | None) -> Ended:
        """Note in the store that a stage failed, with its log."""
        full = record.get("errno") in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in record["message"]:
            record["message"] = f"disk full: {record['message']}"
        record["message"] = cause(record)
        outcome = _OUTCOMES.get(record["status"], Outcome.FAILED)
        note = _without(record, "opened", "environment")
        note.update(_circumstances(slot))
        note.update(outcome=outcome.value, kind=stage.kind, title=stage.title)
        note.update(code=dict(stage.code), grid=str(self.options.grid or ""))
        self.store.fail(stage.key, note, log)
        kept_log = None
        kept_note = self.store.failure(stage.key)
        if kept_note is not None and "log" in kept_note:
            kept_log = Path(kept_note["log"])
        return Ended(outcome, record["message"], record.get("seconds", 0.0), kept_log)


def _altered(inputs: Path, given: Mapping[str, str]) -> str:
    """Name a file below `inputs` that is not as it was given, by SHA-256; "" if all are."""
    try:
        files = disk.outputs(inputs)
    except ValueError as error:
        return str(error)
    for name in sorted(files.keys() ^ given.keys()):
        return name
    for name, path in files.items():
        try:
            if disk.checksum(path) != given[name]:
                return name
        except (OSError, ValueError) as error:
            return f"{name}: {error}"
    return ""


def _log(folder: Path, record: Mapping[str, Any]) -> Path | None:
    """Return the file with what the stage printed and the traceback of its failure; None if that is
    nothing.
    """
    log = folder / "log.txt"
    try:
        os.close(plain.opened(log))
        # Where the disk is full the traceback still stands in the record.
        with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
            file.write(str(record.get("traceback", "")))
        if log.stat().st_size == 0:
            return None
    except (OSError, plain.NotPlain):
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
