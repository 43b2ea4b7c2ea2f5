"""Facts of components, which a plan must know and only their classes can tell: one dataclass for
each kind.

A child asks the class. Between processes facts are JSON (`dataclasses.asdict`); on either side they
are these dataclasses, read by `read_facts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar


@dataclass(frozen=True)
class LabelMap:
    """A label map in words: `kind` as `TargetedAttack.label_map`, or "table" where that is a list;
    the target (None: there is no single one); the attacked classes (empty: all); and of a table its
    labels by class, -1 where the class is not attacked.
    """

    kind: str
    target: int | None
    sources: tuple[int, ...] = ()
    table: tuple[int, ...] = ()


@dataclass(frozen=True)
class AttackFacts:
    """Facts of an attack: the members of `Attack` of the same names; `label_map` is its
    `labelling`.
    """

    has_trigger: bool
    trains: bool
    training_controlled: bool
    label_map: LabelMap | None


@dataclass(frozen=True)
class ModelFacts:
    """Facts of a model: whether its class overrides `Model.anatomy` and `Model.units`."""

    anatomy: bool
    units: bool


@dataclass(frozen=True)
class DatasetFacts:
    """Facts of a dataset, which a plan must know before it is decoded.

    `fingerprint` stands for its content in keys, `mirrors` is `Dataset.mirrors`.
    """

    classes: int
    height: int
    width: int
    channels: int
    train_count: int
    test_count: int
    fingerprint: str
    mirrors: bool = True


@dataclass(frozen=True)
class DefenseFacts:
    """Facts of a defense: whether its class overrides `Defense.rebuild`, and `gives_model`."""

    rebuilds: bool
    gives_model: bool = True


@dataclass(frozen=True)
class MetricFacts:
    """Facts of a metric: `unit` and `higher_is_better` of `Metric`, and whether its class overrides
    `combine` and `measure`.
    """

    unit: str
    higher_is_better: bool | None
    combines: bool
    measured: bool


@dataclass(frozen=True)
class PartFacts:
    """Facts of a part: `stand_in` is `Part.stand_in`; whether its class overrides `Part.shown`."""

    stand_in: bool = False
    shown: bool = False


AnyFacts = AttackFacts | ModelFacts | DatasetFacts | DefenseFacts | MetricFacts | PartFacts

FACTS_BY_KIND: Mapping[str, type[AnyFacts]] = {
    "attack": AttackFacts,
    "defense": DefenseFacts,
    "model": ModelFacts,
    "dataset": DatasetFacts,
    "metric": MetricFacts,
    "part": PartFacts,
}

_Read = TypeVar("_Read", bound=AnyFacts | LabelMap)


def read_facts(facts: type[_Read], table: Mapping[str, Any]) -> _Read:
    """Read facts of a class from the table that `dataclasses.asdict` and JSON made of them.

    Raises ValueError naming the fields that are missing and those that are unknown.
    """
    names = {member.name for member in fields(facts)}
    missing = sorted(names - table.keys())
    unknown = sorted(table.keys() - names)
    complaints = []
    if missing:
        complaints.append(f"without {', '.join(missing)}")
    if unknown:
        complaints.append(f"with the unknown {', '.join(unknown)}")
    if complaints:
        raise ValueError(f"{facts.__name__} {' and '.join(complaints)}")
    values = dict(table)
    if values.get("label_map") is not None:
        values["label_map"] = read_facts(LabelMap, values["label_map"])
    for name in ("sources", "table"):
        if name in values:
            values[name] = tuple(values[name])
    return facts(**values)
