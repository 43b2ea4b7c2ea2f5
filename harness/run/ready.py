"""Which stage is next: those whose inputs exist, the one that most others wait for first."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from graphlib import TopologicalSorter

from harness.stages import Stage


class ReadyQueue:
    """The stages of a plan that are still to run. Knows nothing of processes or the store.

    `stages` by key; `wanted` the keys to run: their other inputs are taken to exist. A key is
    *waiting* for inputs, *ready*, *taken*, or neither (finished or dropped).
    """

    def __init__(self, stages: Mapping[str, Stage], wanted: Iterable[str]) -> None:
        self.stages = stages
        self._inputs = {
            key: frozenset(item.key for item in stage.inputs) for key, stage in stages.items()
        }
        self._dependants: dict[str, list[str]] = defaultdict(list)
        for key, inputs in self._inputs.items():
            for item in sorted(inputs):
                self._dependants[item].append(key)
        self._place = {key: number for number, key in enumerate(stages)}
        self._waiting: dict[str, set[str]] = {}
        self._ready: list[tuple[int, int, str]] = []
        self._taken: set[str] = set()
        self._pending: set[str] = set()
        wanted = set(wanted)
        self._weight = self._weigh(wanted)
        for key in sorted(wanted, key=self._place.__getitem__):
            self._add(key, self._inputs[key] & wanted)

    def __len__(self) -> int:
        """How many stages have not come to an end."""
        return len(self._pending)

    def take(self) -> str | None:
        """The most wanted ready key, now taken; None if none is ready."""
        if not self._ready:
            return None
        key = heapq.heappop(self._ready)[-1]
        self._taken.add(key)
        return key

    def put_back(self, key: str) -> None:
        """A taken key is ready again."""
        self._taken.remove(key)
        self._add(key, ())

    def finish(self, key: str) -> None:
        """A taken key's object exists: what waited for nothing else becomes ready."""
        self._taken.remove(key)
        self._pending.remove(key)
        for dependant in self._dependants[key]:
            inputs = self._waiting.get(dependant)
            if inputs is not None:
                inputs.discard(key)
                if not inputs:
                    del self._waiting[dependant]
                    self._add(dependant, ())

    def drop(self, key: str) -> list[str]:
        """A taken key will not be made; nor will those returned, which waited for it, directly or
        not.
        """
        self._taken.remove(key)
        self._pending.remove(key)
        lost, front = [], [key]
        while front:
            for dependant in self._dependants[front.pop()]:
                if self._waiting.pop(dependant, None) is not None:
                    self._pending.remove(dependant)
                    lost.append(dependant)
                    front.append(dependant)
        return lost

    def dependants(self, key: str) -> list[str]:
        """Keys of the plan that have `key` as an input."""
        return list(self._dependants[key])

    def pending(self, key: str) -> bool:
        """Whether a key has yet to come to an end."""
        return key in self._pending

    def want(self, key: str, exists: Callable[[str], bool]) -> list[str]:
        """Make a key after all, and first those of its inputs that do not exist; all keys added.

        Inputs that are no part of the plan are left to be found missing.
        """
        if self.pending(key):
            return []
        added = [key]
        inputs = sorted(self._inputs[key] & self.stages.keys())
        lacking = [item for item in inputs if self.pending(item) or not exists(item)]
        for item in lacking:
            added += self.want(item, exists)
        self._add(key, lacking)
        return added

    def wait_for(self, key: str, inputs: Collection[str]) -> None:
        """A taken key waits for `inputs`, which are pending, before it is ready again."""
        self._taken.remove(key)
        self._add(key, inputs)

    def _add(self, key: str, inputs: Collection[str]) -> None:
        self._pending.add(key)
        if inputs:
            self._waiting[key] = set(inputs)
        else:
            heapq.heappush(self._ready, (-self._weight.get(key, 0), self._place[key], key))

    def _weigh(self, wanted: set[str]) -> dict[str, int]:
        """How many wanted stages depend on each, directly or not; sets of them as bits of one
        integer.
        """
        order = TopologicalSorter(
            {key: self._inputs[key] & wanted for key in wanted}
        ).static_order()
        below: dict[str, int] = {}
        for key in reversed(list(order)):
            below[key] = 0
            for dependant in self._dependants[key]:
                if dependant in wanted:
                    below[key] |= below[dependant] | 1 << self._place[dependant]
        return {key: bits.bit_count() for key, bits in below.items()}
