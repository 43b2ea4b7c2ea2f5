from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness import Incompatible
from harness.access.granted import MetricAccess
from harness.learn.images import ImageSet
from plugins.metrics.robustness import BATCH, Robustness
from tests.kit.learned import pictures, stage_context

pytestmark = pytest.mark.usefixtures("one_thread")


class Brightness(nn.Module):
    """Two classes by the mean level of a picture, 0 to 255: below `at` it is class 0."""

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(at))

    def forward(self, images: Tensor) -> Tensor:
        excess = 255 * images.flatten(1).mean(1) - self.at
        return torch.stack([-excess, excess], 1)


def measured(
    metric: Robustness, data: ImageSet, net: nn.Module, reference: Any = None
) -> tuple[Mapping[str, float], MetricAccess]:
    files = {
        "model": lambda: net.eval(),
        metric.split: lambda: data,
        "reference": lambda: reference,
    }
    access = MetricAccess(stage_context(None, "measure"), metric.grants(), files)
    return metric.measure(access), access


def grey(levels: list[int], labels: list[int]) -> ImageSet:
    images = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 8, 8, 1)
    return ImageSet(images, torch.tensor(labels))


LEVELS = [90, 95, 97, 103, 105, 120, 95]
LABELS = [0, 0, 0, 1, 1, 1, 1]


def test_the_share_restated() -> None:
    """An image stays right if it is further than eps from the boundary, on the right side."""
    metric = Robustness(eps=4.0, step=1.0, steps=8)
    numbers, access = measured(metric, grey(LEVELS, LABELS), Brightness(100.0))
    right = [
        (100 - level if label == 0 else level - 100) > 4
        for level, label in zip(LEVELS, LABELS, strict=True)
    ]
    assert access.arrays["right"].tolist() == right
    assert numbers == {"": pytest.approx(100 * np.mean(right))}
    assert access.images_processed == 8 * 7 + 7 // 3


@pytest.mark.parametrize(("steps", "start", "moved"), [(1, False, 1), (3, False, 3), (9, False, 4)])
def test_steps_and_bound_are_in_grey_levels(steps: int, start: bool, moved: int) -> None:
    metric = Robustness(eps=4.0, step=1.0, steps=steps, random_start=start)
    data = grey([100 - gap for gap in range(1, 8)], [0] * 7)
    _, access = measured(metric, data, Brightness(99.5))
    assert int(access.arrays["right"].sum()) == 7 - moved


def test_the_loss_is_against_the_reference() -> None:
    data = grey(LEVELS, LABELS)
    metric = Robustness(eps=4.0, step=1.0, steps=8)
    numbers, _ = measured(metric, data, Brightness(100.0), {"values": {"": 90.0}, "arrays": {}})
    assert numbers["loss"] == pytest.approx(90.0 - numbers[""])


def test_it_takes_the_first_images_of_either_split_alike_for_all_networks() -> None:
    data = pictures(BATCH + 30)
    assert data.labels is not None
    data = ImageSet(data.images, data.labels.clamp(max=1))
    metric = Robustness(images=BATCH + 20, split="test", eps=30.0, step=30.0, steps=1)
    assert metric.grants() == {"model", "test", "reference"}
    _, first = measured(metric, data, Brightness(70.0))
    _, again = measured(metric, data, Brightness(70.0))
    assert first.arrays["right"].shape == (BATCH + 20,)
    assert np.array_equal(first.arrays["right"], again.arrays["right"])
    _, every = measured(Robustness(images=None, steps=1), data, Brightness(70.0))
    assert every.arrays["right"].shape == (BATCH + 30,)


def test_an_empty_split_is_incompatible() -> None:
    with pytest.raises(Incompatible, match="validation"):
        measured(Robustness(), pictures(3).subset(torch.arange(0)), Brightness(100.0))


def test_presets_are_those_of_moths_code() -> None:
    found = {
        name: Robustness.model_validate_json(json.dumps({**Robustness.presets["deck"], **preset}))
        for name, preset in Robustness.presets.items()
    }
    assert (found["deck"].eps, found["deck"].step, found["deck"].steps) == (8.0, 2.0, 20)
    assert (found["deck"].images, found["deck"].split) == (1000, "validation")
    assert found["deck/svhn"].steps == found["deck/lisa"].steps == 100
    assert found["deck/svhn"].step == pytest.approx(0.255)
    assert all(field.description for field in Robustness.model_fields.values())
