from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harness import Incompatible, Task
from harness.access.granted import MetricAccess
from harness.components import Anatomy, Model
from harness.learn.images import ImageSet
from plugins.metrics.nc1 import NC1, flat, nc1
from plugins.models.nin import NiN
from tests.kit.learned import Tiny, access_to, pictures, stage_context

pytestmark = pytest.mark.usefixtures("one_thread")


def measured(
    net: nn.Module,
    data: ImageSet,
    metric: NC1 | None = None,
    model: Model | None = None,
    poisoned: int = 0,
) -> Mapping[str, float]:
    mask = np.arange(len(data)) < poisoned
    files = {"model": lambda: net.eval(), "training-set": lambda: data, "poisoned": lambda: mask}
    metric = metric or NC1()
    access = MetricAccess(stage_context(model, "measure"), metric.grants(), files)
    found = metric.measure(access)
    assert isinstance(found, Mapping)
    return found


def restated(features: np.ndarray, labels: np.ndarray) -> float:
    """Papyan et al.'s matrices as they stand, with a general pseudo-inverse."""
    classes = np.unique(labels)
    means = np.stack([features[labels == c].mean(0) for c in classes])
    within = np.mean([np.cov(features[labels == c].T, bias=True) for c in classes], 0)
    offsets = means - means.mean(0)
    between = sum(np.outer(offset, offset) for offset in offsets) / len(classes)
    return float(
        np.trace(np.atleast_2d(within) @ np.linalg.pinv(between, rcond=1e-10)) / len(classes)
    )


@settings(max_examples=40)
@given(st.integers(2, 12), st.integers(2, 6), st.integers(0, 1000))
def test_the_ratio_restated(width: int, classes: int, seed: int) -> None:
    """Classes of unequal size, more or fewer of them than there are dimensions."""
    draw = np.random.default_rng(seed)
    labels = np.concatenate([np.full(draw.integers(2, 9), c) for c in range(classes)])
    features = (
        3 * draw.normal(size=(classes, width))[labels] + draw.normal(size=(len(labels), width)) + 5
    )
    found = nc1(torch.from_numpy(features).float(), torch.from_numpy(labels))
    assert found == pytest.approx(
        restated(features.astype(np.float32).astype(np.float64), labels), rel=1e-5
    )


def test_a_case_by_hand() -> None:
    """Means at 0 and 4, variance 1 in each class: S_W = 1, S_B = 4, C = 2. Another dimension
    changes nothing.
    """
    features = torch.tensor([[-1.0], [1.0], [3.0], [5.0]])
    labels = torch.tensor([4, 4, 7, 7])
    assert nc1(features, labels) == pytest.approx(1 / 8)
    wider = torch.cat([features, torch.tensor([[1.0], [-1.0], [2.0], [-2.0]])], 1)
    assert nc1(wider, labels) == pytest.approx(1 / 8)
    assert nc1(100 * wider + 7, labels) == pytest.approx(1 / 8, rel=1e-5)


def test_collapsed_classes_have_none_and_equal_means_no_ratio() -> None:
    labels = torch.arange(12) % 3
    assert nc1(torch.eye(3)[labels], labels) == 0
    with pytest.raises(Incompatible, match="the same mean"):
        nc1(torch.ones(12, 4), labels)
    with pytest.raises(Incompatible, match="the same mean"):
        nc1(torch.rand(12, 4), torch.zeros(12, dtype=torch.int64))


def test_training_collapses_the_features() -> None:
    """From scratch, trained a little, trained for long."""
    data, found = pictures(90), []
    for epochs in (0, 3, 40):
        torch.manual_seed(0)
        net = Tiny().build(Tiny.task)
        access_to(net).fit(net, data, epochs=epochs)
        found.append(measured(net, data))
    ratios = [one[""] for one in found]
    assert ratios[0] > ratios[1] > ratios[2] > 0
    assert found[0]["training_error"] > found[2]["training_error"] == 0


def test_it_reads_what_the_head_takes() -> None:
    net, data = Tiny().build(Tiny.task).eval(), pictures(60)
    assert data.labels is not None
    with torch.no_grad():
        images = data.images.permute(0, 3, 1, 2) / 255
        features, logits = net[:4](images), net(images)
    found = measured(net, data)
    assert found[""] == pytest.approx(
        restated(features.double().numpy(), data.labels.numpy()), rel=1e-3
    )
    assert found["training_error"] == pytest.approx(
        float((logits.argmax(1) != data.labels).float().mean())
    )


def test_poisoned_images_can_be_left_out() -> None:
    net, data = Tiny().build(Tiny.task), pictures(60)
    told = measured(net, data, NC1(images="clean"), poisoned=20)
    assert told == measured(net, data.subset(torch.arange(20, 60)))
    assert told != measured(net, data)


def test_a_head_that_works_on_every_pixel_has_their_mean() -> None:
    maps = torch.rand(2, 5, 3, 3)
    torch.testing.assert_close(flat(maps, 5), maps.mean((2, 3)))
    assert flat(maps, 45).shape == (2, 45)
    with pytest.raises(Incompatible, match="takes 7 numbers"):
        flat(maps, 7)
    model = NiN()
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 16, 16, 3), dtype=torch.uint8, generator=draw)
    net = model.build(Task("photos", classes=3, height=16, width=16, channels=3, train_count=12))
    assert measured(net, ImageSet(images, torch.arange(12) % 3), model=model)[""] > 0


def test_a_net_without_a_linear_head_is_incompatible() -> None:
    class Headless(Tiny):
        def anatomy(self, module: nn.Module) -> Anatomy:
            return Anatomy("stem", ("stage1",), "stem", "stage1")

    with pytest.raises(Incompatible, match="last layer is a Sequential"):
        measured(Tiny().build(Tiny.task), pictures(12), model=Headless())


def test_every_parameter_has_a_meaning() -> None:
    assert all(field.description for field in NC1.model_fields.values())
    assert NC1.unit == ""
