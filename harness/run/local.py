"""The default engine: one thread for each slot in the command line's own process, each waiting
for a child.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from harness.run.children import Children
from harness.run.host import Attempt, Host, Notify
from harness.run.slots import Slot, slots
from harness.run.state import Options
from harness.stages.stage import Stage
from harness.store.objects import Store
from harness.store.scratch import Scratch


class LocalEngine:
    """Slots of one machine. Nothing is started before the first stage."""

    def __init__(self, store: Store, options: Options) -> None:
        self.slots = slots(options.device, options.jobs, options.threads)
        self._scratch = Scratch()
        self._children = Children(self._scratch.base, entry=options.entry, preload=options.preload)
        self._host = Host(store, self._children, self._scratch, options)
        self._pool = ThreadPoolExecutor(len(self.slots), thread_name_prefix="slot")
        self._lock = threading.Lock()
        self._open = True

    def submit(self, stage: Stage, slot: Slot, notify: Notify) -> Future[Attempt]:
        """See `Engine.submit`."""
        return self._pool.submit(self._host.run, stage, slot, notify)

    def pause(self) -> None:
        """See `Engine.pause`."""
        self._children.pause()

    def stop(self) -> None:
        """See `Engine.stop`."""
        with self._lock:
            if not self._open:
                return
            self._open = False
        self._children.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._scratch.close()
