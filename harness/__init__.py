"""A benchmark of backdoor attacks on image classifiers and of the defenses against them.

What a plugin author needs is imported from here: `from harness import Access, Defense, hookimpl`.
Names are looked up on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.access.granted import Access as Access
    from harness.components import Anatomy as Anatomy
    from harness.components import Attack as Attack
    from harness.components import Context as Context
    from harness.components import Dataset as Dataset
    from harness.components import Defense as Defense
    from harness.components import Facts as Facts
    from harness.components import File as File
    from harness.components import Folder as Folder
    from harness.components import Metric as Metric
    from harness.components import Model as Model
    from harness.components import NotInKey as NotInKey
    from harness.components import Part as Part
    from harness.components import Pictures as Pictures
    from harness.components import PoisoningAttack as PoisoningAttack
    from harness.components import Predictions as Predictions
    from harness.components import Result as Result
    from harness.components import TargetedAttack as TargetedAttack
    from harness.components import Task as Task
    from harness.components import Unit as Unit
    from harness.components import Use as Use
    from harness.components import use as use
    from harness.errors import Incompatible as Incompatible
    from harness.errors import Undeclared as Undeclared
    from harness.hookspecs import hookimpl as hookimpl
    from harness.learn.recipes import Recipe as Recipe

    __version__: str

HOMES = {
    "Access": "harness.access.granted",
    "Anatomy": "harness.components",
    "Attack": "harness.components",
    "Context": "harness.components",
    "Dataset": "harness.components",
    "Defense": "harness.components",
    "Facts": "harness.components",
    "File": "harness.components",
    "Folder": "harness.components",
    "Incompatible": "harness.errors",
    "Metric": "harness.components",
    "Model": "harness.components",
    "NotInKey": "harness.components",
    "Part": "harness.components",
    "Pictures": "harness.components",
    "PoisoningAttack": "harness.components",
    "Predictions": "harness.components",
    "Recipe": "harness.learn.recipes",
    "Result": "harness.components",
    "TargetedAttack": "harness.components",
    "Task": "harness.components",
    "Undeclared": "harness.errors",
    "Unit": "harness.components",
    "Use": "harness.components",
    "hookimpl": "harness.hookspecs",
    "use": "harness.components",
}
"""The module that each exported name is from; also how `harness.sources` sees through `from harness
import ...`.
"""

__all__ = ["__version__", *HOMES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in HOMES:
        value = getattr(import_module(HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("doorbench")
    except PackageNotFoundError:
        return "0+unknown"
