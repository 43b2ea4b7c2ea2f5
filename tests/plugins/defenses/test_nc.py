from __future__ import annotations

import json
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness import Context, Result, Task
from harness.access.granted import Access
from harness.learn.hooks import Batch
from harness.learn.images import ImageSet, to_float
from harness.learn.recipes import Recipe
from plugins.defenses.nc import NC, anomaly
from plugins.parts.universal_triggers import Triggers, UniversalTriggers
from plugins.parts.unlearning import Unlearning
from tests.kit.learned import Tiny, pictures
from tests.kit.oracles import oracle
from tests.kit.scanned import TARGET, acc, asr, scanning, victim

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.oracle
def test_outliers_are_those_of_the_official_code() -> None:
    recorded = oracle("defenses/nc_mad")
    close: dict[str, Any] = {
        "rtol": float(recorded["tol_rtol"]),
        "atol": float(recorded["tol_atol"]),
    }
    for parity in ("even", "odd"):
        index = anomaly(recorded[f"in_norms_{parity}"].tolist())
        np.testing.assert_allclose(index, recorded[f"out_perlabel_{parity}"], **close)
        smallest = int(np.argmin(recorded[f"in_norms_{parity}"]))
        np.testing.assert_allclose(index[smallest], recorded[f"out_index_{parity}"], **close)
        flagged = [
            label for label, value in enumerate(index) if value > float(recorded["par_threshold"])
        ]
        assert flagged == recorded[f"out_flag_{parity}"].tolist()
    lower = anomaly(recorded["in_norms_even"].tolist(), "lower")
    np.testing.assert_allclose(max(lower), recorded["out_torch_index_even"], **close)


@given(st.lists(st.floats(0.1, 1000), min_size=3, max_size=12), st.sampled_from(["mean", "lower"]))
def test_the_median_rule_restated(norms: list[float], kind: Any) -> None:
    median = statistics.median if kind == "mean" else statistics.median_low
    centre = median(norms)
    spread = 1.4826 * median([abs(norm - centre) for norm in norms])
    expected = [(centre - norm) / spread for norm in norms] if spread > 0 else [0.0] * len(norms)
    assert anomaly(norms, kind) == pytest.approx(expected)


def triggers(norms: list[float], failed: int | None = None) -> Triggers:
    """Masks of these sums, with white patterns."""
    made = Triggers(len(norms), (1, 8, 8))
    for label, norm in enumerate(norms):
        made.masks[label] = norm / 64
        made.reached[label] = label != failed
    made.patterns += 1
    return made


def judged(norms: list[float], failed: int | None = None, **fields: Any) -> Result:
    access = scanning(victim(), triggers=triggers(norms, failed))
    return NC(**{"epochs": 1, "batch": 16, **fields}).defend(access)


NORMS = [30.0, 32.0, 5.0, 31.0, 60.0, 28.0, 12.0, 33.0, 29.0]


def test_small_triggers_are_named_the_smallest_first() -> None:
    found = judged(NORMS, unlearn="never")
    assert (found.flagged, found.targets, found.model) == (True, [2, 6], None)
    assert found.score == pytest.approx((30 - 5) / (1.4826 * 2), rel=1e-5)
    assert found.record["norm_4"] == pytest.approx(60)
    assert found.record["failed"] == 0
    assert judged(NORMS, unlearn="never", threshold=7.0).targets == [2]


def test_a_trigger_that_does_not_work_is_not_named() -> None:
    found = judged(NORMS, failed=2, unlearn="never")
    assert found.targets == [6]
    assert found.score == pytest.approx((30 - 12) / (1.4826 * 2), rel=1e-5)
    assert found.record["failed"] == 1


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in net.state_dict().values()])


def test_a_model_without_outliers_is_returned_as_it_is() -> None:
    even = [30.0, 31.0, 32.0, 33.0, 34.0, 35.0, 36.0, 37.0]
    found = judged(even)
    assert (found.flagged, found.targets) == (False, [])
    assert found.model is not None
    assert torch.equal(weights(found.model), weights(victim()))
    hardened = judged(even, unlearn="always").model
    assert hardened is not None
    assert not torch.equal(weights(hardened), weights(victim()))


def test_norms_all_alike_say_nothing() -> None:
    found = judged([7.0] * 9)
    assert (found.flagged, found.score) == (False, 0.0)


@pytest.mark.parametrize("norms", [True, False])
def test_a_backdoor_is_found_and_unlearned(norms: bool) -> None:
    net = victim(norms=norms)
    assert asr(net) > 0.95
    part = UniversalTriggers(steps=60, images=30, batch=30).make(scanning(net))
    # Three labels make no median to speak of: any outlier will do.
    access = scanning(net, pictures(60), triggers=part)
    found = NC(few=True, threshold=0.5, epochs=10, batch=16, lr=0.05).defend(access)
    assert found.flagged
    assert found.targets[0] == TARGET
    assert found.model is not None
    assert asr(found.model) < 0.4
    assert acc(found.model) > 0.9
    assert access.images_processed == 10 * 60


# --- the lesson -----------------------------------------------------------------------------------


def test_each_trigger_has_its_share_of_the_images() -> None:
    data = pictures(30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    found, carried = Unlearning(stamped=0.2).lesson(data, 2, order)
    assert torch.equal(found.images, data.images)
    assert [set(mask.nonzero().flatten().tolist()) for mask in carried] == [
        set(order[:6].tolist()),
        set(order[6:12].tolist()),
    ]
    _, every = Unlearning(stamped=0.8).lesson(data, 2, order)
    assert [int(mask.sum()) for mask in every] == [15, 15]
    assert not bool((every[0] & every[1]).any())


def test_copies_can_be_appended() -> None:
    data = pictures(30)
    found, carried = Unlearning(stamped=1.0, append=True).lesson(data, 2, torch.arange(30))
    assert torch.equal(found.images, data.images.repeat(3, 1, 1, 1))
    assert torch.equal(found.labels, data.labels.repeat(3))
    assert [mask.nonzero().flatten().tolist() for mask in carried] == [
        [*range(30, 60)],
        [*range(60, 90)],
    ]


@pytest.mark.parametrize("append", [False, True])
def test_triggers_lie_where_they_were_inverted_whatever_the_augmentation(
    append: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A white stamp in a corner, which a crop of 4 would cut off of most images of 8 pixels."""
    made = Triggers(1, (1, 8, 8))
    made.masks[0, ..., :2, :2] = 1
    made.patterns += 1
    seen: list[Batch] = []
    net = victim()
    access = scanning(net, pictures(60))
    fit = Access.fit

    def watched(
        self: Access, model: nn.Module, data: ImageSet, recipe: Recipe, **settings: Any
    ) -> object:
        stamp = settings["after_augment"]

        def keep(batch: Batch) -> Batch:
            seen.append(stamp(batch))
            return seen[-1]

        return fit(self, model, data, recipe.replace(crop=4), after_augment=keep)

    monkeypatch.setattr(Access, "fit", watched)
    assert Unlearning(append=append).mended(access, [made.trigger(0)], []) is not None
    images = torch.cat([batch.images for batch in seen])
    assert len(images) == (72 if append else 60)
    assert int((images[:, :, :2, :2] == 1).flatten(1).all(1).sum()) == 12


def test_a_stamp_blends() -> None:
    images, made = to_float(pictures(4).images), triggers([10.0, 20.0])
    torch.testing.assert_close(
        made.trigger(1)(images), images + made.masks[1] * (made.patterns[1] - images)
    )


# --- settings -------------------------------------------------------------------------------------


def test_few_classes_are_incompatible_unless_asked_for() -> None:
    signs = Context(Task("signs", 7, 16, 16, 3, 10))
    assert "too few" in str(NC().compatible(signs))
    assert NC(few=True).compatible(signs) is None
    assert NC().compatible(Context(Task("signs", 8, 16, 16, 3, 10))) is None


def test_presets_are_valid_and_every_parameter_has_a_meaning() -> None:
    for preset in NC.presets.values():
        NC.model_validate_json(json.dumps(preset))
    assert all(field.description for field in NC.model_fields.values())
    assert NC.needs == UniversalTriggers.needs == {"victim", "clean-labelled"}
    assert Tiny.task.classes < 8
