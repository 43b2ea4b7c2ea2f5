"""One run of stages that leave checkpoints, in a process that can be killed: `python -m
tests.kit.chain_run STORE SEED`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness.outcomes import Outcome
from harness.run import children
from harness.run.execute import execute
from harness.run.state import Options
from harness.store.objects import Store
from tests.kit.engine_stages import ENTRY, Plan

STAGES = 3
TIMES = 500


def chains(seed: int, store: Store | None = None) -> Plan:
    """Return the stages of a seed; what the store has is cached."""
    plan = Plan()
    for number in range(STAGES):
        key = plan.add(f"{seed}.{number}", kind="chain", times=TIMES)
        if store is not None and store.has(key):
            plan.outcome[key] = Outcome.CACHED
    return plan


def main(arguments: list[str]) -> int:
    children.TICK = 0.02  # so that something is kept before the next kill
    store = Store(Path(arguments[0]))
    options = Options(jobs=2, device="cpu", entry=ENTRY, preload=())
    return execute(chains(int(arguments[1]), store), store, options).exit_code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
