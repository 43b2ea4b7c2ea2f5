"""The checkpoints of one attempt at a stage, from the host's side: given to its process, taken from
it, and added up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.keeping.continuing import ABOUT, CHECKPOINTS, LIMIT, RESUME, STATE
from harness.run import claims
from harness.stages.stage import Stage
from harness.store import disk
from harness.store.objects import Store, StoreError

LOOKS = 3
"""Times that a checkpoint is looked for that disappears, since the stage has written the next."""

_log = logging.getLogger("harness.run.checkpoints")


class Keeper:
    """What is kept of one attempt. `check` raises ValueError where the stage opened, by then,
    what it must not: nothing is kept of that.

    `continued`: times that the work was continued, this attempt included; `seconds`, `cpu_seconds`:
    of the parts before it; `place`: how far they came. `note` says why something that was kept is
    not used.
    """

    def __init__(
        self,
        store: Store,
        stage: Stage,
        folder: Path,
        parents: Mapping[str, tuple[str, str]],
        check: Callable[[Iterable[str]], None],
    ) -> None:
        self.continued = 0
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.place = ""
        self.note = ""
        self._store = store
        self._stage = stage
        self._folder = folder
        self._parents = parents
        self._check = check
        self._taken = 0
        self._began = time.monotonic()
        self._looked = 0.0
        """Seconds of this attempt until the last look for a checkpoint."""

    def begin(self) -> None:
        """Say that the process begins now: the start of a fork server is no work of the stage."""
        self._began = time.monotonic()

    def resume(self) -> None:
        """Give the process what was kept, where it is of the same sources and inputs. Raises
        OSError where the scratch folder cannot be written.
        """
        kept = self._store.checkpoints
        key = self._stage.key
        manifest = kept.manifest(key)
        if manifest is None:
            return
        digests = {role: parent["digest"] for role, parent in manifest.parents.items()}
        if manifest.code != dict(self._stage.code):
            self.refuse("it was written by other sources")
            return
        if digests != {role: digest for role, (_, digest) in self._parents.items()}:
            self.refuse("it was made from other inputs")
            return
        # Perhaps another one than that: the newest may be damaged, with an older one behind it.
        fetched = kept.fetch(key, self._folder / RESUME)
        if fetched is None:
            self.note = "what was kept is damaged"
            return
        record = fetched.record
        self.continued = int(record["continued"]) + 1
        self.seconds = float(record["seconds"])
        self.cpu_seconds = float(record["cpu_seconds"])
        self.place = str(record["place"])

    def refuse(self, reason: str) -> None:
        """Say that what was kept is not used. It stays until something takes its place."""
        self.note = f"what was kept cannot be used: {reason}"
        stage = self._stage
        _log.warning("%s (%s) starts over: %s", stage.kind, stage.title, self.note)

    def take(self) -> None:
        """Keep the newest checkpoint that the process has written since the last call, if any."""
        for _ in range(LOOKS):
            before = self._looked
            self._looked = time.monotonic() - self._began
            number = claims.newest(self._folder / CHECKPOINTS)
            if number <= self._taken:
                return
            self._taken = number
            place = self._folder / CHECKPOINTS / str(number)
            try:
                self._take(place, before, self._looked)
            except FileNotFoundError:
                continue
            except (ValueError, OSError, StoreError) as error:
                if claims.newest(self._folder / CHECKPOINTS) > number:
                    continue
                stage = self._stage
                _log.warning("no checkpoint of %s (%s): %s", stage.kind, stage.title, error)
                return

    def _take(self, place: Path, earliest: float, latest: float) -> None:
        """Keep one checkpoint, which was written between these seconds of the attempt."""
        files = disk.outputs(place)
        if not {ABOUT, STATE} <= files.keys():
            raise ValueError(f"it lacks {ABOUT} or {STATE}")
        size = sum(path.lstat().st_size for path in files.values())
        if size > LIMIT + claims.RECORD_LIMIT:
            raise ValueError(f"it has {size:,} bytes, more than the {LIMIT:,} that are kept")
        about = claims.checkpoint(place / ABOUT)
        self._check(about["opened"])
        stage = self._stage
        # What came after it is lost if the process ends now. When it was written the process knows
        # best, and is believed within what the host has seen.
        worked = min(max(about["attempt_seconds"], earliest), latest)
        record = {
            "title": stage.title,
            "kind": stage.kind,
            "environment": about["environment"],
            "place": about["place"],
            "continued": self.continued,
            "seconds": self.seconds + worked,
            # Nobody measures the processors' time of a process at work but itself.
            "cpu_seconds": max(0.0, about["cpu_seconds"]),
            "host": disk.host(),
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._store.checkpoints.keep(
            stage.key,
            files,
            spec=stage.spec,
            code=stage.code,
            parents=self._parents,
            record=record,
        )
        self.place = about["place"]

    def drop(self) -> None:
        """Remove what is kept: it cannot be trusted, or is of no more use."""
        self._store.checkpoints.drop(self._stage.key)

    def add_up(self, record: dict[str, Any]) -> None:
        """Add the work of earlier parts to what the host measured of the last one."""
        if not self.continued:
            return
        record["continued"] = self.continued
        record["seconds"] += self.seconds
        if "cpu_seconds" in record:
            record["cpu_seconds"] += self.cpu_seconds
        if record.get("images"):
            record["images_per_second"] = record["images"] / record["seconds"]

    def status(self) -> dict[str, Any]:
        """Return what `bench status` tells of it."""
        return {
            "continued": self.continued,
            "earlier": self.seconds,
            "kept": self.place,
            "note": self.note,
        }
