"""`bench status`: what is running, also from another terminal, and what failed; of one grid, how
far it is.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from harness.cli import planning
from harness.outcomes import Outcome
from harness.run.progress import duration

if TYPE_CHECKING:
    from harness.plan.plan import Plan
    from harness.store.objects import Store


def run(args: argparse.Namespace) -> int:
    """Print what the store tells. Exit code 1 where stages of the grid (without one: of the store)
    have failed.
    """
    if args.grid is None:
        store = planning.open_store(args, make=False)
        keys: Iterable[str] = _noted(store)
        counts: list[str] = []
    else:
        plan, store, _ = planning.load(args, make=False)
        keys, counts = plan.outcome, [_counts(plan, store), ""]
    running = _running(store)
    failures = {key: note for key in keys if key not in running and (note := _failure(store, key))}
    print("\n".join([*counts, *_at_work(running), "", *_failed(failures)]))
    return int(bool(failures))


def _counts(plan: Plan, store: Store) -> str:
    """Cells and stages by how they stand."""
    from harness.report.results import Standings

    standings = Standings(plan, store)
    cells = Counter(_worst(standings.of(key).outcome for key in cell.stages) for cell in plan.cells)
    stages = Counter(standings.of(key).outcome for key in plan.outcome)
    return f"{_told(cells, 'cells')}\n{_told(stages, 'stages')}"


def _told(found: Counter[Outcome], what: str) -> str:
    told = [f"{found[outcome]} {outcome.value}" for outcome in _ORDER if found[outcome]]
    return f"{sum(found.values())} {what}" + (f": {', '.join(told)}" if told else "")


_ORDER = (
    Outcome.FAILED,
    Outcome.TIMED_OUT,
    Outcome.BLOCKED,
    Outcome.TO_RUN,
    Outcome.DONE,
    Outcome.INCOMPATIBLE,
)


def _worst(outcomes: Iterable[Outcome]) -> Outcome:
    found = set(outcomes)
    return next((outcome for outcome in _ORDER if outcome in found), Outcome.INCOMPATIBLE)


def _running(store: Store) -> dict[str, dict[str, Any]]:
    """What is at work by key, without what a process of this machine left behind when it was
    killed.
    """
    from harness.store import disk

    return {
        key: status for key, status in store.lives().items() if not disk.abandoned_status(status)
    }


def _noted(store: Store) -> list[str]:
    return sorted(path.name for path in (store.root / "failures").glob("*") if path.is_dir())


def _failure(store: Store, key: str) -> dict[str, Any] | None:
    note = store.failure(key)
    return note if note is not None and note.get("status") != "incompatible" else None


def _at_work(running: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield f"running: {len(running)}" if running else "nothing is running"
    now = time.time()
    for key, status in running.items():
        passed = max(0.0, now - float(status.get("started", now)))
        where = f"{status.get('slot', '?')} of {status.get('host', '?')}"
        yield f"  {status.get('title', key)}"
        yield f"    {', '.join([where, duration(passed), *_progress(status.get('progress'), passed)])}"


def _progress(progress: Any, passed: float) -> Iterator[str]:
    """Step, loss and time left, as far as the stage tells them."""
    if not isinstance(progress, Mapping):
        return
    step, total, loss = (progress.get(name) for name in ("step", "total", "loss"))
    if isinstance(step, int | float) and isinstance(total, int | float) and total:
        yield f"step {step:g} of {total:g}"
        if isinstance(loss, int | float):
            yield f"loss {loss:.3g}"
        if step > 0:
            yield f"about {duration(passed * max(0.0, total - step) / step)} left"


def _failed(failures: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield f"failed: {len(failures)}" if failures else "nothing has failed"
    for key, note in failures.items():
        message = str(note.get("message", "")).strip().partition("\n")[0]
        yield f"  {note.get('title', key)}"
        yield f"    {note.get('outcome', 'failed')}: {message}"
        if note.get("log"):
            yield f"    log: {note['log']}"
