"""`bench cache`: how large a store is and of what, what is damaged, and what no grid needs."""

from __future__ import annotations

import argparse
import copy
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.api.planning import open_store
from harness.cli import planning
from harness.cli.sizes import counted, size
from harness.errors import BenchError, StoreError
from harness.store import disk, usage
from harness.store.objects import Store
from harness.store.usage import Held

DAY = 86_400.0
AGES = (("up to a day", DAY), ("up to a week", 7 * DAY), ("up to a month", 30 * DAY))
OLDER = "older"

NO_TERMINAL = (
    "bench cache prune asks before it deletes, and there is no terminal to ask at. "
    "Say --yes to have all of that deleted"
)


def run(args: argparse.Namespace) -> int:
    """Show, prune or verify the store. Exit code 1 where something is damaged, or could not be
    deleted since it is in use.
    """
    action = "show"
    words = list(args.words)
    if words and words[0] in ("prune", "verify"):
        action = words.pop(0)
    if action == "prune" and not words:
        raise BenchError(
            "bench cache prune deletes what no grid needs: name the grids whose results stay"
        )
    if action == "verify" and words:
        raise BenchError("bench cache verify looks at all that is stored, and takes no grid")
    if args.yes and action != "prune":
        raise BenchError("--yes answers what `bench cache prune` asks, and nothing else")
    store = open_store(args.store, make=False)
    if action == "verify":
        return _verify(store)
    needed = {word: _needed(args, Path(word)) for word in words}
    if action == "prune":
        return _prune(store, set().union(*needed.values()), args)
    _show(store, needed)
    return 0


def _needed(args: argparse.Namespace, grid: Path) -> Collection[str]:
    """Return the keys of all stages of a grid."""
    asked = copy.copy(args)
    asked.grid = grid
    return planning.load(asked, make=False).plan.stages.keys()


# --- show -----------------------------------------------------------------------------------------


def _show(store: Store, needed: Mapping[str, Collection[str]]) -> None:
    """Print tables of the store's content: by kind, by age, and by grid if there are any."""
    objects = list(usage.objects(store))
    by_kind: dict[str, list[Held]] = {}
    by_age: dict[str, list[Held]] = {name: [] for name, _ in AGES}
    by_age[OLDER] = []
    now = time.time()
    for held in objects:
        by_kind.setdefault(held.kind, []).append(held)
        by_age[_age(now - held.since)].append(held)
    print(f"{store.root}: {_total(objects, 'object')}")
    _table("kind", dict(sorted(by_kind.items())))
    _table("age", by_age)
    if needed:
        by_grid: dict[str, list[Held]] = {}
        for grid, keys in needed.items():
            by_grid[grid] = [held for held in objects if held.key in keys]
        everything = set().union(*needed.values())
        by_grid["none of these"] = [held for held in objects if held.key not in everything]
        _table("grid", by_grid)
    print()
    print(f"checkpoints: {_total(list(usage.checkpoints(store)), 'stage')}")
    print(f"failures: {_total(list(usage.failures(store)), 'note')}")
    print(f"tmp: {_total(list(usage.leftovers(store)), 'leftover')}")


def _age(seconds: float) -> str:
    for name, most in AGES:
        if seconds <= most:
            return name
    return OLDER


def _table(head: str, lines: Mapping[str, Sequence[Held]]) -> None:
    rows = [(head, "objects", "size")]
    for name, helds in lines.items():
        if helds or head == "grid":
            rows.append((name, f"{len(helds):,}", size(_bytes(helds))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print()
    for name, count, bytes_ in rows:
        print(f"{name:{widths[0]}}  {count:>{widths[1]}}  {bytes_:>{widths[2]}}")


def _total(helds: Sequence[Held], noun: str) -> str:
    """Say `3 objects, 1.2 MB`."""
    text = counted(len(helds), noun)
    return f"{text}, {size(_bytes(helds))}" if helds else text


def _bytes(helds: Iterable[Held]) -> int:
    return sum(held.size for held in helds)


# --- verify ---------------------------------------------------------------------------------------


def _verify(store: Store) -> int:
    """Compare everything with its checksums."""
    objects = 0
    damaged = 0
    for key in list(store.keys()):
        try:
            usage.verified(store, key)
        except disk.Unreadable:  # the store has said so by now
            damaged += 1
        objects += 1
    checkpoints = 0
    for key in store.checkpoints.held():
        with store.lock(key) as ours:
            if not ours:
                continue  # a run is writing the next one
            checkpoints += 1
            damaged += not store.checkpoints.verify(key)
    looked = f"{counted(objects, 'object')}, {counted(checkpoints, 'checkpoint')}"
    if not damaged:
        print(f"{looked}: all are whole")
        return 0
    print(f"{looked}: {damaged:,} damaged; the next run makes again what it needs of that")
    return 1


# --- prune ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Doomed:
    """What no grid needs."""

    objects: Sequence[Held]
    checkpoints: Sequence[Held]
    failures: Sequence[Held]
    leftovers: Sequence[Held]

    @classmethod
    def of(cls, store: Store, needed: Collection[str]) -> _Doomed:
        """Look for everything in the store that is not of the stages `needed`."""
        return cls(
            [held for held in usage.objects(store) if held.key not in needed],
            [held for held in usage.checkpoints(store) if held.key not in needed],
            [held for held in usage.failures(store) if held.key not in needed],
            [held for held in usage.leftovers(store) if usage.is_removable(held)],
        )

    def __bool__(self) -> bool:
        return any((self.objects, self.checkpoints, self.failures, self.leftovers))

    def __str__(self) -> str:
        parts = []
        for helds, noun in (
            (self.objects, "object"),
            (self.checkpoints, "checkpoint"),
            (self.failures, "failure"),
            (self.leftovers, "leftover"),
        ):
            if helds:
                parts.append(f"{counted(len(helds), noun)} ({size(_bytes(helds))})")
        return ", ".join(parts)


def _prune(store: Store, needed: Collection[str], args: argparse.Namespace) -> int:
    """Delete what is not among the stages `needed`, if the user agrees."""
    _refuse_while_others_work(store, needed)
    doomed = _Doomed.of(store, needed)
    if not doomed:
        print("there is nothing that these grids do not need")
        return 0
    print(f"these grids do not need: {doomed}")
    if not args.yes and not _agreed():
        print("nothing was deleted")
        return 0
    _refuse_while_others_work(store, needed)  # the question may have stood for hours
    busy = _delete(store, doomed)
    print("deleted" if not busy else f"deleted, but for {counted(len(busy), 'stage')} in use")
    return 1 if busy else 0


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise BenchError(NO_TERMINAL)
    try:
        answer = input("Delete all of that? [y/N] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


def _refuse_while_others_work(store: Store, needed: Collection[str]) -> None:
    """Raise StoreError while a run makes a stage of another grid: nobody knows what else it needs
    of the store.
    """
    for key, note in store.lives().items():
        if key in needed or disk.abandoned_status(note):
            continue
        title = f"{note.get('kind', 'stage')} ({note.get('title', key)})"
        raise StoreError(
            f"{store.root}: a run on {note.get('host', 'another machine')} works on {title}, which "
            "is of none of these grids. Name its grid, too, or wait until it has ended; if it was "
            f"killed, remove live/{key}.json"
        )


def _delete(store: Store, doomed: _Doomed) -> list[str]:
    """Delete it all; return the keys of what others hold a lock on, which stays."""
    busy: dict[str, None] = {}
    for helds, remove in (
        (doomed.objects, store.remove),
        (doomed.checkpoints, store.checkpoints.drop),
        (doomed.failures, store.clear_failure),
    ):
        for held in helds:
            with store.lock(held.key) as ours:
                if ours:
                    remove(held.key)
                else:
                    busy[held.key] = None
    for held in doomed.leftovers:
        path = store.root / "tmp" / held.key
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return list(busy)
