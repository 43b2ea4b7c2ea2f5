"""Libraries that only some methods need, and that extras of a distribution bring.

A method that lacks one fails with the command that installs it.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from harness.errors import BenchError


class MissingExtra(BenchError):
    """Raised where a method runs whose optional library is not installed."""


def extra_module(module: str, extra: str, distribution: str = "doorbench") -> ModuleType:
    """Import and return `module` (dotted), which `pip install 'distribution[extra]'` brings.

    Call it where the work begins, not at module level: whoever lists, plans or reports needs no
    extra. Raises MissingExtra, with that command, where the library is not installed; a library
    that is there and breaks on import raises what it raises.
    """
    package = module.partition(".")[0]
    try:
        import_module(package)
    except ModuleNotFoundError as missing:
        if missing.name != package:
            raise
        raise MissingExtra(
            f"{package} is not installed: pip install '{distribution}[{extra}]'"
        ) from None
    return import_module(module)
