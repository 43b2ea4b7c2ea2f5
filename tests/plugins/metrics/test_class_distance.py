from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness import Incompatible
from harness.access.granted import MetricAccess
from harness.learn.images import ImageSet
from plugins.metrics.class_distance import ClassDistance
from plugins.parts.distance_matrices import falling, increase, smallest
from tests.kit.coded import tiny_codec, tiny_victim
from tests.kit.learned import pictures, stage_context
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")


def distance(**changes: Any) -> ClassDistance:
    small = {"z": 2, "epochs": 12, "images": 8, "searches": 1, "level_rate": 8.0}
    return ClassDistance(**{**small, **changes})


def measured(
    metric: ClassDistance,
    net: nn.Module | None = None,
    data: ImageSet | None = None,
    reference: Mapping[str, Any] | None = None,
    parts: Mapping[str, Any] = {"decoder": tiny_codec},
) -> tuple[Mapping[str, float], Mapping[str, np.ndarray]]:
    net = tiny_victim() if net is None else net
    data = pictures(120, 60) if data is None else data
    files = {"model": lambda: net, "validation": lambda: data, "reference": lambda: reference}
    context = replace(stage_context(stage="measure"), parts=parts)
    access = MetricAccess(context, metric.grants(), files)
    return metric.measure(access), access.arrays


# --- sums -----------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_distances_and_their_growth_are_those_of_the_official_code() -> None:
    """The official code takes a pair that no search turns for one at distance 0, as if it were the
    nearest: 11 of 12 pairs have a distance here.
    """
    recorded = oracle("defenses/class_distance")
    close = {"rtol": float(recorded["tol_rtol"]), "atol": float(recorded["tol_atol"])}
    trials = np.where(recorded["in_trials"] == 0, np.nan, recorded["in_trials"])
    distances = smallest(trials)
    np.testing.assert_allclose(np.nan_to_num(distances), recorded["out_distance"], **close)
    assert np.isfinite(distances).sum() == 11
    mean = np.nanmean(distances)
    assert mean * 11 / 12 == pytest.approx(float(recorded["out_mean_distance"]))
    grown = increase(distances, recorded["in_base"])
    assert grown is not None
    official = 100 * float(recorded["out_relative_improvement"])
    assert (11 * grown - 100) / 12 == pytest.approx(official)


def test_growth_is_a_mean_of_ratios_over_pairs_that_have_both() -> None:
    nan = np.nan
    before = np.array([[nan, 1.0, 2.0], [4.0, nan, nan]])
    after = np.array([[nan, 3.0, 2.0], [nan, nan, 7.0]])
    assert increase(after, before) == pytest.approx(100 * (2.0 + 0.0) / 2)
    assert increase(np.full((2, 3), nan), before) is None
    trials = np.array([[[nan, 5.0], [nan, 2.0]], [[nan, 3.0], [1.0, nan]]])
    np.testing.assert_array_equal(smallest(trials), [[nan, 3.0], [1.0, 2.0]])


def test_what_a_curve_still_falls_is_of_its_last_third() -> None:
    nan = np.nan
    curves = np.array([[nan, 8.0, 8.0, 4.0, 4.0, 3.0], [nan] * 6, [2.0, 2.0, 2.0, 2.0, nan, nan]])
    # 3 / 4 - 1 over the last two epochs, and nothing
    assert falling(curves) == pytest.approx(12.5)
    late = np.array([[nan, nan, nan, nan, nan, 3.0]])
    assert falling(late) is None


# --- measuring ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backdoor", ["deck", "filter"])
def test_all_ordered_pairs_are_measured(backdoor: str) -> None:
    numbers, arrays = measured(distance(backdoor=backdoor, epochs=25))
    found = arrays["distances"]
    assert np.isnan(np.diag(found)).all()
    others = found[~np.eye(3, dtype=bool)]
    assert numbers["pairs"] == 6
    assert numbers["failed"] == np.isnan(others).sum() < 6
    assert numbers[""] == pytest.approx(np.nanmean(others))
    assert numbers["smallest"] == pytest.approx(np.nanmin(others))
    assert numbers["smallest"] > 0
    assert 0 <= numbers["held_out"] <= 100
    assert numbers["steps"] == 25
    assert numbers["decoder_psnr"] == pytest.approx(float(tiny_codec().psnr))
    assert arrays["curves"].shape == (1, 3, 3, 25)
    last = arrays["curves"][0, ..., -1]
    np.testing.assert_allclose(last, arrays["trials"][0], rtol=1e-6)
    assert "increase" not in numbers


def test_a_patch_is_measured_without_a_decoder() -> None:
    settings = {"backdoor": "moth", "epochs": 40, "batch": 4, "searches": 2}
    patch = ClassDistance(images=8, **settings)
    numbers, arrays = measured(patch, parts={})
    found = arrays["distances"]
    others = found[~np.eye(3, dtype=bool)]
    assert numbers["pairs"] == 6
    assert numbers["failed"] == np.isnan(others).sum() < 6
    # no mask covers more than the picture
    assert 0 < numbers["smallest"] <= numbers[""] <= 64
    assert numbers["steps"] == 40 * 2
    assert 0 <= numbers["held_out"] <= 100
    assert "decoder_psnr" not in numbers
    assert not np.array_equal(arrays["trials"][0], arrays["trials"][1], equal_nan=True)
    np.testing.assert_array_equal(found, smallest(arrays["trials"]))
    last = arrays["curves"][:, ..., -1]
    np.testing.assert_allclose(last, arrays["trials"], rtol=1e-6)
    curves = arrays["curves"].reshape(-1, 40)
    rises = np.diff(curves, axis=1)
    assert (rises[np.isfinite(rises)] <= 0).all()
    again, _ = measured(patch.model_copy(update={"together": 1, "at_once": 1}), parts={})
    assert again[""] == pytest.approx(numbers[""], rel=1e-3)


def test_it_repeats_whatever_goes_together() -> None:
    numbers, arrays = measured(distance())
    again, once_more = measured(distance())
    assert numbers == again
    np.testing.assert_array_equal(arrays["curves"], once_more["curves"])
    apart, separately = measured(distance(together=1, at_once=1))
    np.testing.assert_allclose(arrays["distances"], separately["distances"], rtol=1e-3)
    assert apart["failed"] == numbers["failed"]


def test_a_network_grows_over_its_reference() -> None:
    numbers, arrays = measured(distance())
    earlier = arrays["distances"] / 2
    before = {"values": numbers, "arrays": {"distances": earlier}}
    grown, _ = measured(distance(), reference=before)
    assert grown["increase"] == pytest.approx(100)
    assert grown["left_out"] == numbers["failed"]
    assert grown[""] == pytest.approx(numbers[""])
    one = tuple(np.argwhere(np.isfinite(earlier))[0])
    earlier[one] = np.nan
    grown, _ = measured(distance(), reference=before)
    assert grown["increase"] == pytest.approx(100)
    assert grown["left_out"] == numbers["failed"] + 1
    earlier[:] = np.nan
    grown, _ = measured(distance(), reference=before)
    assert "increase" not in grown
    assert grown["left_out"] == numbers["pairs"]


def test_some_pairs_are_drawn_and_the_smallest_search_counts() -> None:
    numbers, arrays = measured(distance(pairs=2, searches=2))
    assert numbers["pairs"] == 2
    measured_pairs = np.isfinite(arrays["steps"][0])
    assert measured_pairs.sum() == 2
    trials = arrays["trials"]
    assert not np.array_equal(trials[0], trials[1], equal_nan=True)
    np.testing.assert_array_equal(arrays["distances"], smallest(trials))
    _, more = measured(distance(pairs=4))
    assert not (measured_pairs & ~np.isfinite(more["steps"][0])).any()


def test_pairs_that_fail_are_counted() -> None:
    class Stubborn(nn.Module):
        """Says class 0 whatever it sees."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            brightness = images.mean((1, 2, 3))
            return torch.stack([brightness * 0 + 9, brightness, -brightness], 1)

    numbers, arrays = measured(distance(epochs=2), Stubborn())
    # to class 0 everything goes, from anywhere
    assert numbers["failed"] == 4
    assert np.isfinite(arrays["distances"]).sum() == 2
    assert numbers[""] == pytest.approx(np.nanmean(arrays["distances"]))

    class Deaf(Stubborn):
        """Says a class that is nobody's target: none of the three wins."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.cat([super().forward(images) * 0, images.mean((1, 2, 3))[:, None] + 9], 1)

    numbers, _ = measured(distance(epochs=1), Deaf())
    assert numbers["failed"] == 6
    assert "" not in numbers
    assert numbers["steps"] == 1


def test_classes_may_have_unequal_numbers_of_pictures() -> None:
    data = pictures(120, 60)
    assert data.labels is not None
    kept = torch.ones(120, dtype=torch.bool)
    kept[(data.labels == 2).nonzero()[5:]] = False
    numbers, arrays = measured(distance(batch=4), data=data.subset(kept))
    assert numbers["pairs"] == 6
    assert (arrays["steps"][0, 2, :2] == 12 * 2).all()
    assert np.isnan(arrays["held_out"][0, 2]).all()
    with pytest.raises(Incompatible, match="has no picture of class 2; say validation = 2000"):
        measured(distance(), data=data.subset(data.labels != 2))


def test_what_has_settled_ends_early() -> None:
    numbers, arrays = measured(distance(epochs=60, stop=3, settled=0.5, patience=1))
    assert numbers["steps"] < 60
    made = arrays["steps"][0][np.isfinite(arrays["steps"][0])]
    assert len(set(made.tolist())) > 1


def test_parameters_that_do_nothing_are_told() -> None:
    assert "z" in ClassDistance(backdoor="filter").unused()
    assert set(ClassDistance(start="drawn").unused()) == {"spread", "mask_rate"}
    assert set(ClassDistance().unused()) == {"mask_rate"}
    patch = ClassDistance(backdoor="moth").unused()
    assert {"decoder", "z", "content", "level_rate", "floor"} < set(patch)
    assert not {"alpha", "batch", "bound", "epochs", "mask_rate", "stop"} & set(patch)
