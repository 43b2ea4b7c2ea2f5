"""The observers of a run: plugin objects with the life-cycle hooks of `harness.hookspecs`, each on
its own.

One that raises is reported and the run goes on: watching must never cost a result.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Sequence
from typing import Any

import pluggy

from harness import hookspecs
from harness.hookspecs import RunSummary, WatchedRun, WatchedStage
from harness.outcomes import Outcome
from harness.vocabulary import OBSERVERS, PROJECT

_log = logging.getLogger("harness.run.observers")


class Observers:
    """The caller of the hooks of several observers, isolated from each other.

    Its methods raise nothing but KeyboardInterrupt.
    """

    def __init__(self, plugins: Sequence[object] = ()) -> None:
        self._managers = [(str(plugin), _manager(plugin)) for plugin in plugins]

    def run_start(self, run: WatchedRun) -> None:
        """Call `bench_run_start` of every observer that has it."""
        self._call("bench_run_start", run=run)

    def stage_end(self, stage: WatchedStage, outcome: Outcome) -> None:
        """Call `bench_stage_end` of every observer that has it."""
        self._call("bench_stage_end", stage=stage, outcome=outcome)

    def run_end(self, summary: RunSummary) -> None:
        """Call `bench_run_end` of every observer that has it."""
        self._call("bench_run_end", summary=summary)

    def _call(self, hook: str, **arguments: Any) -> None:
        for name, manager in self._managers:
            try:
                getattr(manager.hook, hook)(**arguments)
            except (Exception, SystemExit) as error:
                _log.warning(
                    "observer %s failed in %s: %s: %s", name, hook, type(error).__name__, error
                )


def outside() -> list[object]:
    """Return the observers that installed distributions bring (entry points of the group
    `bench.observers`), sorted by name.

    One that cannot be loaded is reported and left out.
    """
    entries = importlib.metadata.entry_points(group=OBSERVERS)
    observers: list[object] = []
    for entry in sorted(entries, key=lambda entry: entry.name):
        try:
            observer = entry.load()
            _manager(observer)  # refuses what has wrong hooks
        except (Exception, SystemExit) as error:
            _log.warning(
                "observer %s (%s) is left out: %s: %s",
                entry.name,
                entry.value,
                type(error).__name__,
                error,
            )
        else:
            observers.append(observer)
    return observers


def _manager(plugin: object) -> pluggy.PluginManager:
    """Return a pluggy manager with one observer. Raises PluginValidationError for wrong hooks."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()
    return manager
