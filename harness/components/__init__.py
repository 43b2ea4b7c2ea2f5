"""The interfaces of everything a plugin can bring, and how their parameters are declared: one file
for each kind.

Importing this package costs no torch; bodies import what they need.
"""

from __future__ import annotations

from harness.access.predictions import Predictions
from harness.components.attack import Attack, PoisoningAttack, TargetedAttack
from harness.components.base import (
    ATTACK_NEEDS,
    DEFENSE_NEEDS,
    METRIC_NEEDS,
    PART_NEEDS,
    Component,
    Context,
    Traits,
    load_component,
    summary,
)
from harness.components.dataset import Dataset, Facts, Pictures
from harness.components.defense import Defense, Result
from harness.components.facts import (
    FACTS_BY_KIND,
    AnyFacts,
    AttackFacts,
    DatasetFacts,
    DefenseFacts,
    LabelMap,
    MetricFacts,
    ModelFacts,
    PartFacts,
    read_facts,
)
from harness.components.kinds import BY_KIND, kind_of
from harness.components.metric import Metric
from harness.components.model import Model
from harness.components.parameters import (
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
from harness.components.spec import IN_PLACE
from harness.learn.anatomy import Anatomy, Unit
from harness.learn.rules import Quantise
from harness.learn.task import Task

__all__ = [
    "ATTACK_NEEDS",
    "BY_KIND",
    "DEFENSE_NEEDS",
    "FACTS_BY_KIND",
    "IN_PLACE",
    "METRIC_NEEDS",
    "PART_NEEDS",
    "Anatomy",
    "AnyFacts",
    "Attack",
    "AttackFacts",
    "Component",
    "Context",
    "Dataset",
    "DatasetFacts",
    "Defense",
    "DefenseFacts",
    "Facts",
    "File",
    "FileMark",
    "Folder",
    "FolderMark",
    "LabelMap",
    "Metric",
    "MetricFacts",
    "Model",
    "ModelFacts",
    "NotInKey",
    "OutsideKeyMark",
    "Part",
    "PartFacts",
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
    "read_facts",
    "summary",
    "use",
]
