from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import Context, Incompatible
from harness.access.granted import MetricAccess, Oracle
from harness.components import AttackFacts, Traits
from harness.learn.images import ImageSet
from plugins.metrics.detection import FPR, TPR
from tests.kit.learned import Tiny, stage_context


def access(
    needs: Set[str], result: Mapping[str, Any] | None, table: tuple[int, ...] = (2, 2, -1)
) -> MetricAccess:
    import torch

    test = ImageSet(torch.zeros(1, 8, 8, 1, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    files = {"result": lambda: result, "trigger": lambda: Oracle(None, table, test)}
    return MetricAccess(stage_context(), needs, files)


def verdict(flagged: bool | None, *targets: int) -> dict[str, Any]:
    return {"flagged": flagged, "targets": list(targets)}


def test_a_verdict_is_0_or_100() -> None:
    for metric in (TPR(), FPR()):
        assert metric.measure(access(metric.needs, verdict(True))) == 100
        assert metric.measure(access(metric.needs, verdict(False))) == 0


def test_a_verdict_may_have_to_name_the_target() -> None:
    metric = TPR(name_target=True)
    told = [verdict(True, 1, 2), verdict(True, 1), verdict(True), verdict(False, 2)]
    assert [metric.measure(access(metric.needs, one)) for one in told] == [100, 0, 0, 0]


@given(st.lists(st.integers(-1, 4), min_size=5, max_size=5), st.sets(st.integers(0, 4)))
def test_any_target_counts_but_not_a_label_that_only_its_own_class_keeps(
    table: list[int], suspected: set[int]
) -> None:
    metric = TPR(name_target=True)
    right = False
    for label in suspected:
        others = table[:label] + table[label + 1 :]
        right = right or label in others
    judged = access(metric.needs, verdict(True, *suspected), tuple(table))
    assert metric.measure(judged) == 100 * right


@pytest.mark.parametrize("metric", [TPR(), FPR()])
def test_what_gives_no_verdict_has_no_rate(metric: TPR | FPR) -> None:
    with pytest.raises(Incompatible, match="gives no verdict"):
        metric.measure(access(metric.needs, verdict(None)))
    with pytest.raises(Incompatible, match="no defense"):
        metric.measure(access(metric.needs, None))


def test_a_false_positive_needs_a_clean_model() -> None:
    facts = AttackFacts(has_trigger=True, trains=True, training_controlled=False, label_map=None)
    backdoor = Traits("attack", "any", {}, facts)
    none = Traits("attack", "any", {}, replace(facts, has_trigger=False))
    assert "leaves a backdoor" in str(FPR().compatible(Context(Tiny.task, attack=backdoor)))
    assert FPR().compatible(Context(Tiny.task, attack=none)) is None
    assert TPR.needs >= {"trigger"}, "the host refuses these for the attack that is none"


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_a_rate_is_a_share_of_models(verdicts: list[bool]) -> None:
    told = TPR().combine([100.0 * one for one in verdicts])
    assert told == {
        "mean": pytest.approx(100 * verdicts.count(True) / len(verdicts)),
        "n": len(verdicts),
    }
