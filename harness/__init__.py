"""A benchmark of backdoor attacks on image classifiers and of the defenses against them.

This is the front door for authors of plugins, `from harness import Access, Defense, hookimpl`, and
for whoever uses grids from Python, `harness.load("grid.toml")`. What works on images and networks
comes from the other door, `harness.learn`, which imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.doors import DOORS, resolve

if TYPE_CHECKING:
    from harness.access.granted import Access as Access
    from harness.access.granted import AttackAccess as AttackAccess
    from harness.access.granted import MetricAccess as MetricAccess
    from harness.access.granted import Oracle as Oracle
    from harness.access.granted import PartAccess as PartAccess
    from harness.access.predictions import Predictions as Predictions
    from harness.access.workbench import Workbench as Workbench
    from harness.api.benchmarks import load as load
    from harness.components import Attack as Attack
    from harness.components import Component as Component
    from harness.components import Context as Context
    from harness.components import Dataset as Dataset
    from harness.components import Defense as Defense
    from harness.components import Facts as Facts
    from harness.components import File as File
    from harness.components import Folder as Folder
    from harness.components import LabelMap as LabelMap
    from harness.components import Metric as Metric
    from harness.components import Model as Model
    from harness.components import NotInKey as NotInKey
    from harness.components import Part as Part
    from harness.components import Pictures as Pictures
    from harness.components import PoisoningAttack as PoisoningAttack
    from harness.components import Reference as Reference
    from harness.components import Result as Result
    from harness.components import TargetedAttack as TargetedAttack
    from harness.components import Use as Use
    from harness.components import use as use
    from harness.environment import cache_folder as cache_folder
    from harness.errors import Incompatible as Incompatible
    from harness.errors import Undeclared as Undeclared
    from harness.errors import suggest as suggest
    from harness.extras import MissingExtra as MissingExtra
    from harness.extras import extra_module as extra_module
    from harness.hookspecs import hookimpl as hookimpl
    from harness.introspect.register import Register as Register
    from harness.learn.anatomy import Anatomy as Anatomy
    from harness.learn.anatomy import Unit as Unit
    from harness.learn.recipes import Fraction as Fraction
    from harness.learn.recipes import Listed as Listed
    from harness.learn.recipes import Rates as Rates
    from harness.learn.recipes import Recipe as Recipe
    from harness.learn.recipes import RecipeFields as RecipeFields
    from harness.learn.recipes import Schedule as Schedule
    from harness.learn.rules import Quantise as Quantise
    from harness.learn.task import Task as Task

    __version__: str

__all__ = ["__version__", *DOORS[__name__]]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    return resolve(__name__, name, globals())


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    # Slow to import, and few ask for the version.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("doorbench")
    except PackageNotFoundError:
        return "0+unknown"
