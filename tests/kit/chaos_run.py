"""One run of the chaos test, in a process that can be killed: `python -m tests.kit.chaos_run STORE
SEED COMMITS`.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.outcomes import Outcome
from harness.run.execute import execute
from harness.run.state import Options
from harness.store.objects import Manifest, Store
from tests.kit.engine_stages import ENTRY, Plan

STAGES = 40


class CountingStore(Store):
    """Notes every commit that came to its end."""

    notes: Path

    def commit(self, key: str, folder: Path, **more: Any) -> Manifest:
        manifest = super().commit(key, folder, **more)
        handle = os.open(self.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(handle, f"{key}\n".encode())
        os.close(handle)
        return manifest


def random_plan(seed: int, store: Store | None = None) -> Plan:
    """Draw a graph; what the store has is cached."""
    draw, plan = random.Random(seed), Plan()
    for number in range(STAGES):
        earlier = list(plan.stages)[-8:]
        parents = draw.sample(earlier, min(len(earlier), draw.choice((0, 1, 1, 2, 3))))
        key = plan.add(f"{seed}.{number}", *parents, sleep=draw.uniform(0.005, 0.04))
        if store is not None and store.has(key):
            plan.outcome[key] = Outcome.CACHED
    return plan


def main(arguments: list[str]) -> int:
    store = CountingStore(Path(arguments[0]))
    store.notes = Path(arguments[2])
    options: Mapping[str, Any] = {"jobs": 2, "device": "cpu", "entry": ENTRY, "preload": ()}
    return execute(random_plan(int(arguments[1]), store), store, Options(**options)).exit_code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
