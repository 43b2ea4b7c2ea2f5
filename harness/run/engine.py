"""Hosts that stages run on. An engine looks like an executor of concurrent.futures: submit, and a
future comes back.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, cast

from harness.errors import BenchError, suggest
from harness.run.slots import Slot

if TYPE_CHECKING:
    from harness.run.host import Attempt, Options
    from harness.stages import Stage
    from harness.store.objects import Store

Notify = Callable[[Mapping[str, Any] | None], None]
"""Gets a running stage's progress about once a second."""

ENGINES = {"local": "harness.run.local:LocalEngine"}
"""Factories by name, called with (store, options)."""


class Engine(Protocol):
    """What `execute` needs of a host of stages."""

    slots: Sequence[Slot]

    def submit(self, stage: Stage, slot: Slot, notify: Notify) -> Future[Attempt]:
        """Run a stage in a slot. The future raises only what must stop the run (StoreError, our own
        bugs).
        """
        ...

    def stop(self) -> None:
        """Kill what runs, wait for it, and clean up. Futures come to an end; calling it twice is
        harmless.
        """
        ...


def start(name: str, store: Store, options: Options) -> Engine:
    """The engine called `name`. Raises BenchError for an unknown one, and for slots that cannot be
    had.
    """
    if name not in ENGINES:
        raise BenchError(f"--engine {name}: unknown. {suggest(name, sorted(ENGINES))}")
    module, _, factory = ENGINES[name].partition(":")
    return cast("Engine", getattr(importlib.import_module(module), factory)(store, options))
