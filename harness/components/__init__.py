"""The interfaces of everything a plugin can bring, and how their parameters are declared: one file
a kind.

Importing this package costs no torch; bodies import what they need.
"""

from __future__ import annotations

from harness.components.attack import (
    Attack,
    LabelMapKind,
    PoisoningAttack,
    Quantise,
    TargetedAttack,
)
from harness.components.base import (
    ATTACK_NEEDS,
    DEFENSE_NEEDS,
    KINDS,
    METRIC_NEEDS,
    PART_NEEDS,
    RESERVED,
    Component,
    Context,
    Task,
    Traits,
    load_component,
    summary,
)
from harness.components.dataset import Dataset, Facts, Pictures
from harness.components.defense import Defense, Result
from harness.components.kinds import BY_KIND, kind_of
from harness.components.metric import Metric, Predictions
from harness.components.model import Anatomy, Model, Unit
from harness.components.parameters import (
    IN_PLACE,
    File,
    FileMark,
    Folder,
    FolderMark,
    NotInKey,
    OutsideKeyMark,
    Reference,
    ReferenceMark,
    Unbound,
    Use,
    use,
)
from harness.components.part import Part

__all__ = [
    "ATTACK_NEEDS",
    "BY_KIND",
    "DEFENSE_NEEDS",
    "IN_PLACE",
    "KINDS",
    "METRIC_NEEDS",
    "PART_NEEDS",
    "RESERVED",
    "Anatomy",
    "Attack",
    "Component",
    "Context",
    "Dataset",
    "Defense",
    "Facts",
    "File",
    "FileMark",
    "Folder",
    "FolderMark",
    "LabelMapKind",
    "Metric",
    "Model",
    "NotInKey",
    "OutsideKeyMark",
    "Part",
    "Pictures",
    "PoisoningAttack",
    "Predictions",
    "Quantise",
    "Reference",
    "ReferenceMark",
    "Result",
    "TargetedAttack",
    "Task",
    "Traits",
    "Unbound",
    "Unit",
    "Use",
    "kind_of",
    "load_component",
    "summary",
    "use",
]
