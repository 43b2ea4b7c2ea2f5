"""The names that the two front doors, `harness` and `harness.learn`, export, and their homes.

Names are resolved on first use, so that importing a door costs nothing and `import harness` loads
no torch. `harness.sources`, which follows imports without executing them, reads the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

DOORS: Mapping[str, Mapping[str, str]] = {
    "harness": {
        "Access": "harness.access.granted",
        "Anatomy": "harness.learn.anatomy",
        "Attack": "harness.components",
        "AttackAccess": "harness.access.granted",
        "Component": "harness.components",
        "Context": "harness.components",
        "Dataset": "harness.components",
        "Defense": "harness.components",
        "Facts": "harness.components",
        "File": "harness.components",
        "Folder": "harness.components",
        "Fraction": "harness.learn.recipes",
        "Incompatible": "harness.errors",
        "LabelMap": "harness.components",
        "Listed": "harness.learn.recipes",
        "Metric": "harness.components",
        "MetricAccess": "harness.access.granted",
        "MissingExtra": "harness.extras",
        "Model": "harness.components",
        "NotInKey": "harness.components",
        "Oracle": "harness.access.granted",
        "Part": "harness.components",
        "PartAccess": "harness.access.granted",
        "Pictures": "harness.components",
        "PoisoningAttack": "harness.components",
        "Predictions": "harness.access.predictions",
        "Quantise": "harness.learn.rules",
        "Rates": "harness.learn.recipes",
        "Recipe": "harness.learn.recipes",
        "RecipeFields": "harness.learn.recipes",
        "Reference": "harness.components",
        "Register": "harness.introspect.register",
        "Result": "harness.components",
        "Schedule": "harness.learn.recipes",
        "TargetedAttack": "harness.components",
        "Task": "harness.learn.task",
        "Undeclared": "harness.errors",
        "Unit": "harness.learn.anatomy",
        "Use": "harness.components",
        "Workbench": "harness.access.workbench",
        "cache_folder": "harness.environment",
        "extra_module": "harness.extras",
        "hookimpl": "harness.hookspecs",
        "load": "harness.api.benchmarks",
        "suggest": "harness.errors",
        "use": "harness.components",
    },
    "harness.learn": {
        "Batch": "harness.learn.hooks",
        "Diverged": "harness.learn.training",
        "FitSettings": "harness.learn.hooks",
        "Extra": "harness.learn.hooks",
        "History": "harness.learn.training",
        "Hooks": "harness.learn.hooks",
        "ImageSet": "harness.learn.images",
        "LUMA": "harness.learn.images",
        "NORMS": "harness.learn.layers",
        "Normalise": "harness.learn.layers",
        "PoisonedSet": "harness.learn.poisoning",
        "augment": "harness.learn.augmentation",
        "device_of": "harness.learn.device",
        "evaluating": "harness.learn.device",
        "global_random": "harness.learn.device",
        "kernels": "harness.learn.device",
        "poison_with_cover": "harness.learn.poisoning",
        "predict": "harness.learn.evaluation",
        "probe_precision": "harness.learn.device",
        "resize": "harness.learn.images",
        "sent": "harness.learn.device",
        "stamp": "harness.learn.poisoning",
        "stamping_hook": "harness.learn.poisoning",
        "to_float": "harness.learn.images",
        "together": "harness.learn.evaluation",
        "to_uint8": "harness.learn.images",
    },
}
"""The module that each exported name is from, by door. `harness` imports no torch for any of its
names; `harness.learn` does, which is why it is a door of its own.
"""


def resolve(door: str, name: str, namespace: dict[str, Any]) -> Any:
    """Return the exported `name` of `door`, and keep it in the door's `namespace` for next time.

    Raises AttributeError for a name that the door does not export.
    """
    homes = DOORS[door]
    if name not in homes:
        raise AttributeError(f"module {door!r} has no attribute {name!r}")
    value = getattr(import_module(homes[name]), name)
    namespace[name] = value
    return value
