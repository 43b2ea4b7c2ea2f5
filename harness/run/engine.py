"""Hosts that stages run on. An engine looks like an executor of concurrent.futures: submit, and a
future comes back.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from harness.errors import BenchError, suggest
from harness.run.host import Attempt, Notify
from harness.run.slots import Slot
from harness.run.state import Options
from harness.stages.stage import Stage
from harness.store.objects import Store

ENGINES = {"local": "harness.run.local:LocalEngine"}
"""Factories by name, called with (store, options)."""


class Engine(Protocol):
    """A host of stages, as `execute` needs it."""

    slots: Sequence[Slot]

    def submit(self, stage: Stage, slot: Slot, notify: Notify) -> Future[Attempt]:
        """Run a stage in a slot. The future raises only what must stop the run (StoreError, our own
        bugs).
        """

    def pause(self) -> None:
        """Let what runs keep its state and end, as far as it can, without waiting for it; nothing
        more is started.
        """

    def stop(self) -> None:
        """Kill what runs, wait for it, and clean up. Futures come to an end; calling it twice is
        harmless.
        """


def start(name: str, store: Store, options: Options) -> Engine:
    """Start the engine called `name`.

    Raises BenchError for an unknown one, and for slots that cannot be had.
    """
    if name not in ENGINES:
        raise BenchError(f"--engine {name}: unknown. {suggest(name, sorted(ENGINES))}")
    module, _, class_name = ENGINES[name].partition(":")
    factory: Callable[[Store, Options], Engine] = getattr(
        importlib.import_module(module), class_name
    )
    return factory(store, options)
