"""`bench status`: what is running, also from another terminal, and what failed; of one grid, how
far it is.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.api.planning import open_store
from harness.cli import failures, planning
from harness.cli.sizes import counted
from harness.outcomes import Outcome
from harness.run.account import continued, duration
from harness.store import disk
from harness.store.objects import Store

if TYPE_CHECKING:
    from harness.access.context import Coordinates
    from harness.components.spec import ComponentSpec
    from harness.plan.plan import Plan
    from harness.stages.payloads import Payload
    from harness.stages.stage import Stage

_ORDER = (
    Outcome.FAILED,
    Outcome.TIMED_OUT,
    Outcome.BLOCKED,
    Outcome.PAUSED,
    Outcome.TO_RUN,
    Outcome.DONE,
    Outcome.INCOMPATIBLE,
)
"""The states of cells and stages, the worst first."""

Note = Mapping[str, Any]
"""The store's note of a stage at work, or of its failure; other versions may have written it."""


def run(args: argparse.Namespace) -> int:
    """Print what the store tells. Exit code 1 where stages of the grid have failed; without one,
    any whose sources and grids are still there.
    """
    plan = None
    if args.grid is None:
        store = open_store(args.store, make=False)
        keys = sorted(store.failed())
    else:
        plan, store, _ = planning.load(args, make=False)
        keys = list(plan.outcome)
    if args.forget:
        count = failures.forget(store, plan)
        print(f"forgot {counted(count, 'failure')} of sources and grids that are gone")
        print()
    if plan is not None:
        for line in _counts(plan, store):
            print(line)
        print()
    settings = _StageSettings(plan) if args.verbose else None
    if plan is not None:
        _print_shortfalls(plan, store, settings)
    running = _running(store)
    print(f"running: {len(running)}" if running else "nothing is running")
    for key, note in running.items():
        _print_stage(key, note, settings)
        print(f"    {', '.join(_progress(note))}")
    _print_paused(store, keys if plan else store.checkpoints.held(), running, settings)
    print()
    return _print_failures(store, set(keys) - running.keys(), plan, settings)


def _print_failures(
    store: Store, keys: Collection[str], plan: Plan | None, settings: _StageSettings | None
) -> int:
    """Print what of these stages has failed, by cause, and what is out of date of that; return the
    exit code.
    """
    failed = failures.of(store, sorted(keys))
    stale = failures.stale(failed) if plan is None else {}
    current = {key: note for key, note in failed.items() if key not in stale}
    print(f"failed: {len(current)}" if current else "nothing has failed")
    for reason, notes in failures.by_cause(current).items():
        print(f"  {reason}")
        for key, note in notes.items():
            _print_stage(key, note, settings, "    ")
            if note.get("log"):
                print(f"      log: {note['log']}")
    if stale:
        print()
        count = counted(len(stale), "failure")
        print(f"out of date: {count}; `bench status --forget` forgets what is")
        for reason, times in Counter(stale.values()).items():
            print(f"  {reason} ({counted(times, 'stage')})")
    return 1 if current else 0


# --- how far a grid is ----------------------------------------------------------------------------


def _counts(plan: Plan, store: Store) -> list[str]:
    """Count cells and stages by how they stand."""
    # `bench status` without a grid is quicker without this.
    from harness.report.standings import Standings

    standings = Standings(plan, store)
    cells: Counter[Outcome] = Counter()
    for cell in plan.cells:
        cells[_worst([standings.of(key).outcome for key in cell.stages])] += 1
    stages = Counter(standings.of(key).outcome for key in plan.outcome)
    return [_total(cells, "cells"), _total(stages, "stages")]


def _worst(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the worst outcome of a cell's stages; a cell without any is incompatible."""
    for outcome in _ORDER:
        if outcome in outcomes:
            return outcome
    return Outcome.INCOMPATIBLE


def _total(counts: Counter[Outcome], noun: str) -> str:
    """Say `5 cells: 1 failed, 4 done`."""
    text = f"{counts.total()} {noun}"
    parts = [f"{counts[outcome]} {outcome.value}" for outcome in _ORDER if counts[outcome]]
    if parts:
        text += f": {', '.join(parts)}"
    return text


def _print_shortfalls(plan: Plan, store: Store, settings: _StageSettings | None) -> None:
    """Print which attacks found fewer images to poison than they were asked for, if any did."""
    from harness.report.quotas import Quotas  # as in `_counts`

    shortfalls = Quotas(plan, store).shortfalls()
    if not shortfalls:
        return
    print(f"cut short: {len(shortfalls)}")
    for key, text in shortfalls.items():
        stage = plan.stages[key]
        _print_stage(key, {"title": stage.title, "kind": stage.kind}, settings)
        print(f"    {text}")
    print()


# --- one stage ------------------------------------------------------------------------------------


def _running(store: Store) -> Mapping[str, Note]:
    """Return what is at work by key, without what a process of this machine left behind when it was
    killed.
    """
    notes = store.lives()
    return {key: note for key, note in notes.items() if not disk.abandoned_status(note)}


def _print_paused(
    store: Store,
    keys: Iterable[str],
    running: Mapping[str, Note],
    settings: _StageSettings | None,
) -> None:
    """Print what was stopped on the way and goes on in the next run."""
    kept = set(store.checkpoints.held())
    manifests = []
    for key in keys:
        if key in kept and key not in running and not store.has(key):
            manifest = store.checkpoints.manifest(key)
            if manifest is not None:
                manifests.append(manifest)
    if not manifests:
        return
    print()
    print(f"paused: {len(manifests)}")
    for manifest in manifests:
        record = manifest.record
        _print_stage(manifest.key, record, settings)
        parts = [f"kept at {record['place']}", duration(record["seconds"])]
        if record["continued"]:
            parts.append(continued(record["continued"]))
        print(f"    {', '.join(parts)}")


def _print_stage(key: str, note: Note, settings: _StageSettings | None, indent: str = "  ") -> None:
    title = note.get("title", key)
    kind = note.get("kind")
    print(f"{indent}{kind}  {title}" if kind else f"{indent}{title}")
    if settings is not None:
        for line in settings.of(key):
            print(f"{indent}  {line}")


class _StageSettings:
    """The settings of a plan's stages; without a plan there is nothing but keys."""

    def __init__(self, plan: Plan | None) -> None:
        self.stages: Mapping[str, Stage] = {}
        self.changed: dict[int, Mapping[str, Any]] = {}
        """Parameters that differ from their defaults, by the id of the component's entry in keys:
        stages of a plan share these entries with the components.
        """
        if plan is None:
            return
        self.stages = plan.stages
        binding = plan.graph.binding
        pending = [*binding.components.values(), *binding.grants.values()]
        pending += binding.established.values()
        while pending:
            component = pending.pop()
            self.changed[id(component.key_entry)] = component.changed
            pending += component.uses.values()

    def of(self, key: str) -> Iterator[str]:
        """Yield the key of a stage, its components and its recipe with the settings that differ
        from their defaults, and its seed.
        """
        yield f"key: {key}"
        if key not in self.stages:
            return
        stage = self.stages[key]
        for role, component in _components(stage.payload):
            entry = component.key_entry
            changed = self.changed.get(id(entry), entry["params"])
            settings = [f"{name} = {json.dumps(value)}" for name, value in changed.items()]
            listed = ", ".join(settings) or "every default"
            yield f"{role}: {component.kind} {component.name} ({listed})"
        recipe = _recipe(stage.payload)
        if recipe is not None:
            yield f"recipe: {recipe}"
        coordinates = _coordinates(stage.payload)
        if coordinates is not None and coordinates.replicate is not None:
            yield f"seed: {coordinates.replicate}"


def _components(payload: Payload) -> Iterator[tuple[str, ComponentSpec]]:
    """Yield the components of a payload, each with its role."""
    # These cost pydantic, which `bench status` without a grid does not need.
    from harness.stages.payloads import DataPayload, ScorePayload, WithContext

    if isinstance(payload, ScorePayload):
        for name, metric in payload.metrics.items():
            yield f"metric {name}", metric
    if isinstance(payload, DataPayload):
        yield "component", payload.component
    if isinstance(payload, WithContext):
        yield "component", payload.component
        if payload.context.model is not None:
            yield "model", payload.context.model
        for name, part in payload.context.parts.items():
            yield name, part.component


def _recipe(payload: Payload) -> str | None:
    """Return the settings of a stage's recipe that differ from their defaults; None without one."""
    from harness.learn.recipes import Recipe  # as in `_components`
    from harness.stages.payloads import WithContext

    if not isinstance(payload, WithContext) or payload.context.recipe is None:
        return None
    defaults = Recipe().model_dump(mode="json")
    settings = []
    for name, value in payload.context.recipe.items():
        if value != defaults[name]:
            settings.append(f"{name} = {json.dumps(value)}")
    return ", ".join(settings) or "every default"


def _coordinates(payload: Payload) -> Coordinates | None:
    """Return the coordinates of a stage's draws; None for a stage that draws nothing."""
    from harness.stages.payloads import GrantPayload, WithContext  # as in `_components`

    if isinstance(payload, WithContext):
        return payload.context.coordinates
    if isinstance(payload, GrantPayload):
        return payload.coordinates
    return None


def _progress(note: Note) -> Iterable[str]:
    """Yield where a stage is at work and for how long, and step, loss and time left as far as it
    tells them.
    """
    yield f"{note.get('slot', '?')} of {note.get('host', '?')}"
    now = time.time()
    passed = max(0.0, now - float(note.get("started", now)))
    yield duration(passed)
    progress = note.get("progress")
    earlier = note.get("earlier")
    if isinstance(earlier, int | float):
        passed += earlier
    if not isinstance(progress, Mapping):
        yield from _kept(note, {})
        return
    step = progress.get("step")
    total = progress.get("total")
    loss = progress.get("loss")
    if not isinstance(step, int | float) or not isinstance(total, int | float) or not total:
        yield from _kept(note, progress)
        return
    yield str(progress.get("place") or f"step {step:g} of {total:g}")
    if isinstance(loss, int | float):
        yield f"loss {loss:.3g}"
    if step > 0:
        left = passed * max(0.0, total - step) / step
        yield f"about {duration(left)} left"
    yield from _kept(note, progress)


def _kept(note: Note, progress: Note) -> Iterator[str]:
    """Yield how often a stage was continued, and what it would lose if it were stopped now."""
    times = note.get("continued")
    if isinstance(times, int) and times:
        yield continued(times)
    kept = note.get("kept")
    if kept:
        yield f"kept at {kept}"
    elif not progress.get("keeps"):
        yield "starts over if it is stopped"
    if note.get("note"):
        yield str(note["note"])
