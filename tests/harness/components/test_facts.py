from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from harness import Facts
from harness.components import BY_KIND
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

FACTS: list[AnyFacts] = [
    AttackFacts(True, True, False, LabelMap("source-specific", 2, (0, 1))),
    AttackFacts(True, False, True, LabelMap("table", None, (0, 2), (1, -1, 0))),
    AttackFacts(False, True, True, None),
    DatasetFacts(10, 32, 32, 3, 100, 50, "print"),
    DefenseFacts(True),
    MetricFacts("%", None, False, True),
    ModelFacts(True, False),
    PartFacts(),
]


def test_every_kind_has_facts() -> None:
    assert FACTS_BY_KIND.keys() == BY_KIND.keys()
    assert {type(facts) for facts in FACTS} == set(FACTS_BY_KIND.values())
    assert Facts is DatasetFacts


@pytest.mark.parametrize("facts", FACTS)
def test_they_come_back_from_json(facts: AnyFacts) -> None:
    assert read_facts(type(facts), json.loads(json.dumps(asdict(facts)))) == facts


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"anatomy": True}, "ModelFacts without units"),
        ({}, "ModelFacts without anatomy, units"),
        ({"anatomy": True, "units": True, "b": 1, "a": 1}, "ModelFacts with the unknown a, b"),
        ({"unit": True, "units": True}, "ModelFacts without anatomy and with the unknown unit"),
    ],
)
def test_missing_and_unknown_fields_are_named(table: dict[str, bool], complaint: str) -> None:
    with pytest.raises(ValueError, match=f"^{complaint}$"):
        read_facts(ModelFacts, table)


def test_a_label_map_is_read_as_strictly() -> None:
    table = asdict(AttackFacts(True, True, False, LabelMap("all-to-one", 2)))
    del table["label_map"]["target"]
    with pytest.raises(ValueError, match=r"^LabelMap without target$"):
        read_facts(AttackFacts, table)
