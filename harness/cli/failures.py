"""The notes of what failed: by cause, and which of them are out of date."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.run.account import first_line
from harness.store.objects import Store

if TYPE_CHECKING:
    from harness.plan.plan import Plan
    from harness.sources.digests import Sources

Note = Mapping[str, Any]
Notes = dict[str, Note]
"""Notes by key. Other versions may have written them."""


def of(store: Store, keys: Iterable[str]) -> Notes:
    """Return the notes of those stages that have failed."""
    notes: Notes = {}
    for key in keys:
        note = store.failure(key)
        if note is not None and note.get("status") != "incompatible":
            notes[key] = note
    return notes


def by_cause(notes: Mapping[str, Note]) -> dict[str, Notes]:
    """Return notes by what there is to say of their cause, so that it is told once."""
    causes: dict[str, Notes] = defaultdict(dict)
    for key, note in notes.items():
        outcome = note.get("outcome", "failed")
        causes[f"{outcome}: {first_line(str(note.get('message', '')))}"][key] = note
    return dict(causes)


def stale(notes: Mapping[str, Note]) -> dict[str, str]:
    """Return, by key, why failures are out of date: no command would run into them again as they
    were, as their sources have changed or the file of their grid is gone.
    """
    if not notes:
        return {}
    # What reads sources is slow to import for a command that needs none.
    from harness.sources.digests import Sources

    sources = Sources()
    reasons = {}
    for key, note in notes.items():
        reason = _changed(note, sources) or _without_grid(note)
        if reason:
            reasons[key] = reason
    return reasons


def forget(store: Store, plan: Plan | None) -> int:
    """Remove notes that are out of date, those of what makes no sense included; of a plan's grid
    also those of stages that it no longer has. Returns how many.
    """
    notes: Notes = {}
    for key in sorted(store.failed()):
        notes[key] = store.failure(key) or {}
    doomed = set(stale(notes))
    if plan is not None:
        path = str(plan.grid.path.absolute())
        for key, note in notes.items():
            if note.get("grid") == path and key not in plan.graph.stages:
                doomed.add(key)
    count = 0
    for key in sorted(doomed):
        with store.lock(key) as ours:
            if ours:  # else a run is trying it again, and will say how that ends
                store.clear_failure(key)
                count += 1
    return count


def _changed(note: Note, sources: Sources) -> str:
    """Name a module that a stage was made with and that is another now; "" if there is none."""
    code = note.get("code")
    if not isinstance(code, Mapping):
        return ""
    for module, revision in code.items():
        now = sources.revision(module)
        if now is None:
            return f"{module} is gone"
        if now != revision:
            return f"{module} has changed"
    return ""


def _without_grid(note: Note) -> str:
    """Name the grid's file if it is gone from this machine; ""  if it is there, or elsewhere."""
    grid = note.get("grid")
    if not isinstance(grid, str) or not grid:
        return ""
    machine = str(note.get("host", "")).rpartition("-")[0]  # without the number of its namespace
    if machine != socket.gethostname() or Path(grid).exists():
        return ""
    return f"{grid} is gone"
