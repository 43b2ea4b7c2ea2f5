"""Who watches a run: plugin objects with the life-cycle hooks of `harness.hookspecs`, each on its
own.

One that raises is reported and the run goes on: watching must never cost a result.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Sequence
from typing import Any

import pluggy

from harness import hookspecs

_log = logging.getLogger("harness.run.observers")


class Observers:
    """Calls the hooks of several observers, isolated from each other."""

    def __init__(self, plugins: Sequence[object] = ()) -> None:
        self._managers = [(str(plugin), _manager(plugin)) for plugin in plugins]

    def call(self, hook: str, **arguments: Any) -> None:
        """Call one hook of every observer that has it. Raises nothing but KeyboardInterrupt."""
        for name, manager in self._managers:
            try:
                getattr(manager.hook, hook)(**arguments)
            except (Exception, SystemExit) as error:
                _log.warning(
                    "observer %s failed in %s: %s: %s", name, hook, type(error).__name__, error
                )


def outside() -> list[object]:
    """The observers that installed distributions bring (entry points of group `bench.observers`),
    sorted by name.

    One that cannot be loaded is reported and left out.
    """
    found: list[object] = []
    for entry in sorted(
        importlib.metadata.entry_points(group=hookspecs.OBSERVERS), key=lambda entry: entry.name
    ):
        try:
            plugin = entry.load()
            _manager(plugin)
        except (Exception, SystemExit) as error:
            _log.warning(
                "observer %s (%s) is left out: %s: %s",
                entry.name,
                entry.value,
                type(error).__name__,
                error,
            )
        else:
            found.append(plugin)
    return found


def _manager(plugin: object) -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()
    return manager
