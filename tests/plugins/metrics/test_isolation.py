from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness import Incompatible
from harness.access.granted import MetricAccess
from plugins.metrics.isolation import Isolation
from tests.kit.learned import stage_context


def access(suspects: list[int] | None, poisoned: list[bool]) -> MetricAccess:
    result: dict[str, Any] | None = None if suspects is None else {"suspects": suspects}
    files = {"result": lambda: result, "poisoned": lambda: np.array(poisoned)}
    return MetricAccess(stage_context(stage="measure"), Isolation.needs, files)


def test_precision_is_over_suspects_and_recall_over_poison() -> None:
    found = Isolation().measure(access([0, 2, 3, 5], [True, True, True, False, False, False]))
    assert found == {"precision": 50.0, "recall": pytest.approx(200 / 3)}


def test_a_clean_training_set_has_no_recall() -> None:
    assert Isolation().measure(access([1], [False, False])) == {"precision": 0.0}


@pytest.mark.parametrize(
    ("suspects", "reason"), [([], "suspects no training image"), (None, "no defense")]
)
def test_nothing_suspected_is_incompatible(suspects: list[int] | None, reason: str) -> None:
    with pytest.raises(Incompatible, match=reason):
        Isolation().measure(access(suspects, [True]))
