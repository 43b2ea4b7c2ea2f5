"""The stages that are next: those whose inputs exist, the one that most others wait for first."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from graphlib import TopologicalSorter

from harness.stages.stage import Stage


class ReadyQueue:
    """The stages of a plan that are still to run. Knows nothing of processes or the store.

    `stages` by key; `wanted` the keys to run: their other inputs are taken to exist. A key is
    *waiting* for inputs, *ready*, *taken*, or neither (finished or dropped).
    """

    def __init__(self, stages: Mapping[str, Stage], wanted: Iterable[str]) -> None:
        self.stages = stages
        self._place: dict[str, int] = {}
        """Position of a key in the plan."""
        self._inputs: dict[str, frozenset[str]] = {}
        self._dependants: dict[str, list[str]] = defaultdict(list)
        for place, (key, stage) in enumerate(stages.items()):
            self._place[key] = place
            inputs = frozenset(item.key for item in stage.inputs)
            self._inputs[key] = inputs
            for item in sorted(inputs):
                self._dependants[item].append(key)
        self._waiting: dict[str, set[str]] = {}
        """For each key that waits, the inputs that it waits for."""
        self._ready: list[tuple[int, int, str]] = []
        """A heap of ready keys: (minus the weight, place, key)."""
        self._taken: set[str] = set()
        self._pending: set[str] = set()
        wanted = set(wanted)
        self._weight = self._weigh(wanted)
        for key in sorted(wanted, key=self._place.__getitem__):
            self._add(key, self._inputs[key] & wanted)

    def __len__(self) -> int:
        """Return how many stages have not come to an end."""
        return len(self._pending)

    def take(self) -> str | None:
        """Take and return the ready key that most others wait for; None if none is ready."""
        if not self._ready:
            return None
        key = heapq.heappop(self._ready)[-1]
        self._taken.add(key)
        return key

    def put_back(self, key: str) -> None:
        """Make a taken key ready again."""
        self._taken.remove(key)
        self._add(key, ())

    def finish(self, key: str) -> None:
        """Take note that a taken key's object exists: what waits for nothing else becomes ready."""
        self._taken.remove(key)
        self._pending.remove(key)
        for dependant in self._dependants[key]:
            inputs = self._waiting.get(dependant)
            if inputs is None:
                continue
            inputs.discard(key)
            if not inputs:
                del self._waiting[dependant]
                self._add(dependant, ())

    def drop(self, key: str) -> list[str]:
        """Give up a taken key, and those that wait for it, directly or not; return the latter."""
        self._taken.remove(key)
        self._pending.remove(key)
        lost = []
        front = [key]
        while front:
            missing = front.pop()
            for dependant in self._dependants[missing]:
                if dependant in self._waiting:
                    del self._waiting[dependant]
                    self._pending.remove(dependant)
                    lost.append(dependant)
                    front.append(dependant)
        return lost

    def dependants(self, key: str) -> list[str]:
        """Return the keys of the plan that have `key` as an input."""
        return list(self._dependants[key])

    def pending(self, key: str) -> bool:
        """Tell whether a key has yet to come to an end."""
        return key in self._pending

    def want(self, key: str, exists: Callable[[str], bool]) -> list[str]:
        """Add a key after all, and those of its inputs that do not exist; return all keys added.

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
        """Let a taken key wait for `inputs`, which are pending, before it is ready again."""
        self._taken.remove(key)
        self._add(key, inputs)

    def _add(self, key: str, inputs: Collection[str]) -> None:
        self._pending.add(key)
        if inputs:
            self._waiting[key] = set(inputs)
        else:
            heapq.heappush(self._ready, (-self._weight.get(key, 0), self._place[key], key))

    def _weigh(self, wanted: set[str]) -> dict[str, int]:
        """Return how many wanted stages depend on each, directly or not."""
        sorter = TopologicalSorter({key: self._inputs[key] & wanted for key in wanted})
        upstream_first = list(sorter.static_order())
        # The stages below a key as one integer: the bit of a stage's place stands for the stage.
        below: dict[str, int] = {}
        for key in reversed(upstream_first):
            bits = 0
            for dependant in self._dependants[key]:
                if dependant in wanted:
                    bits |= below[dependant] | 1 << self._place[dependant]
            below[key] = bits
        return {key: bits.bit_count() for key, bits in below.items()}
