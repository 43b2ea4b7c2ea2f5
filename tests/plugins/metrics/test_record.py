from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from harness import Incompatible
from harness.access.granted import MetricAccess
from plugins.metrics.record import Record
from tests.kit.learned import stage_context


def measured(number: str, result: Mapping[str, Any] | None) -> float:
    metric = Record(number=number)
    return metric.measure(MetricAccess(stage_context(), metric.needs, {"result": lambda: result}))


RESULT = {"flagged": True, "score": None, "record": {"pruned": 7.0, "seconds": 2.0}}


def test_it_is_the_number_that_the_defense_recorded() -> None:
    assert measured("pruned", RESULT) == 7.0
    assert measured("seconds", RESULT) == 2.0
    assert measured("flagged", RESULT) == 1.0
    assert measured("score", {**RESULT, "score": 2.5}) == 2.5


@pytest.mark.parametrize(
    ("number", "result", "reason"),
    [
        ("pruned", None, "there is no defense to record anything"),
        ("prunned", RESULT, "recorded no 'prunned'. Did you mean: pruned"),
        ("score", RESULT, "recorded no 'score'."),
    ],
)
def test_what_was_not_recorded_makes_no_sense(
    number: str, result: Mapping[str, Any] | None, reason: str
) -> None:
    with pytest.raises(Incompatible) as caught:
        measured(number, result)
    assert reason in str(caught.value)
