from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import Incompatible, Predictions
from plugins.metrics.acc import Acc
from plugins.metrics.asr import ASR
from plugins.metrics.images import Images
from plugins.metrics.ra import RA
from plugins.metrics.time import Time
from plugins.metrics.variants import Variants


def predictions(
    labels: list[int], clean: list[int], triggered: list[int] | None, table: list[int]
) -> Predictions:
    names = np.array(labels)
    return Predictions(
        labels=names,
        clean=np.array(clean),
        mapped=np.array(table)[names],
        triggered=None if triggered is None else np.array(triggered),
        variants={},
        logits=np.zeros((len(labels), len(table)), np.float16),
        record={"seconds": 1.5, "images": 300.0},
    )


def test_all_to_one_leaves_the_target_class_out() -> None:
    found = predictions([0, 1, 1, 2], clean=[0, 1, 2, 2], triggered=[0, 0, 1, 0], table=[0, 0, 0])
    assert Acc().score(found) == 75
    assert ASR().score(found) == pytest.approx(200 / 3)
    assert ASR(include_target=True).score(found) == 75
    assert RA().score(found) == pytest.approx(100 / 3)


def test_all_to_all_counts_every_image() -> None:
    found = predictions([0, 1, 2], clean=[0, 1, 2], triggered=[1, 2, 2], table=[1, 2, 0])
    assert ASR().score(found) == pytest.approx(200 / 3)


def test_source_specific_counts_the_sources() -> None:
    found = predictions([0, 1, 2, 2], clean=[0, 1, 2, 2], triggered=[0, 0, 0, 2], table=[-1, -1, 0])
    assert ASR().score(found) == 50
    assert RA().score(found) == 50


@pytest.mark.parametrize("metric", [ASR(), RA()])
def test_no_attacked_image_is_no_number(metric: ASR | RA) -> None:
    with pytest.raises(Incompatible, match="no test image"):
        metric.score(predictions([0, 0], clean=[0, 0], triggered=[0, 0], table=[0, 0]))


def test_further_triggers_are_to_be_ignored() -> None:
    found = predictions([0, 1, 1, 2], clean=[0, 1, 2, 2], triggered=[0, 0, 0, 0], table=[0, 0, 0])
    found = replace(
        found, variants={"cross": np.array([0, 1, 0, 2]), "noise": np.array([0, 1, 1, 0])}
    )
    assert Variants().score(found) == {"cross": 75, "noise": 75}
    assert Variants(fooled=True).score(found) == pytest.approx({"cross": 100 / 3, "noise": 100 / 3})


def test_variants_that_cannot_be_counted() -> None:
    found = predictions([0, 0], clean=[0, 0], triggered=[0, 0], table=[0, 0])
    with pytest.raises(Incompatible, match="no further trigger"):
        Variants().score(found)
    with pytest.raises(Incompatible, match="no test image"):
        Variants(fooled=True).score(replace(found, variants={"cross": np.array([0, 0])}))


def test_what_the_defense_took() -> None:
    found = predictions([0], clean=[0], triggered=None, table=[-1])
    assert Time().score(found) == 1.5
    assert Images().score(found) == 300


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1),
    st.integers(0, 3),
)
def test_rates_restated_one_by_one(samples: list[tuple[int, int, int]], target: int) -> None:
    labels, clean, triggered = (list(column) for column in zip(*samples, strict=True))
    found = predictions(labels, clean, triggered, [target] * 4)
    assert Acc().score(found) == pytest.approx(
        100 * sum(a == b for a, b, _ in samples) / len(samples)
    )
    others = [(label, answer) for label, _, answer in samples if label != target]
    if others:
        assert ASR().score(found) == pytest.approx(
            100 * sum(b == target for _, b in others) / len(others)
        )
        assert RA().score(found) == pytest.approx(
            100 * sum(a == b for a, b in others) / len(others)
        )
        assert ASR().score(found) + RA().score(found) <= 100 + 1e-9
