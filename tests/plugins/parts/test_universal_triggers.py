from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from harness import Incompatible
from harness.learn.images import ImageSet
from harness.learn.weights import load_state, save_state
from plugins.parts.per_class import some_of_each
from plugins.parts.universal_triggers import Triggers, UniversalTriggers
from tests.kit.learned import Tiny, access_to, pictures
from tests.kit.scanned import TARGET, scanning, victim

pytestmark = pytest.mark.usefixtures("one_thread")


def made(net: torch.nn.Module, data: ImageSet | None = None, **fields: Any) -> Triggers:
    part = UniversalTriggers(**{"steps": 30, "images": 30, "batch": 30, **fields})
    found = part.make(scanning(net, data))
    assert isinstance(found, Triggers)
    return found


@pytest.mark.parametrize("norms", [True, False])
def test_the_smallest_trigger_is_the_implanted_one(norms: bool) -> None:
    found = made(victim(norms=norms), steps=60)
    assert found.norms[TARGET] < 0.5 * min(
        norm for label, norm in enumerate(found.norms) if label != TARGET
    )
    assert found.reached.all()


def test_stamped_images_get_the_label() -> None:
    net, found = victim(), made(victim(), steps=60)
    pixels = pictures().images.float().div(255).permute(0, 3, 1, 2)
    with torch.no_grad():
        for label in range(3):
            answers = net(found.trigger(label)(pixels)).argmax(1)
            assert float((answers == label).float().mean()) >= 0.9


def test_labels_are_inverted_alike_however_many_go_together() -> None:
    together, alone = (made(victim(), steps=4, at_once=count) for count in (1000, 1))
    torch.testing.assert_close(together.masks, alone.masks, rtol=1e-2, atol=1e-2)


def test_it_repeats_and_leaves_torch_as_found() -> None:
    random = torch.get_rng_state()
    first, again = (made(victim(), steps=2) for _ in range(2))
    assert torch.equal(first.masks, again.masks)
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize(
    ("fields", "images"),
    [
        ({}, 30),
        ({"images": 24, "batch": 8}, 24),
        ({"images": None, "batch": 8}, 24),
        ({"images": 1, "batch": 8}, 8),
        ({"images": 100, "batch": 1000}, 90),
        ({"per_class": 4, "images": None}, 12),
        ({"per_class": 4, "sources": "others", "images": None}, 8),
    ],
)
def test_images_of_a_step(fields: dict[str, Any], images: int) -> None:
    access = access_to(victim())
    UniversalTriggers(**{"steps": 3, "images": 30, "batch": 30, **fields}).make(access)
    assert access.images_processed == 3 * images * Tiny.task.classes


def test_a_label_can_be_inverted_on_images_of_other_classes() -> None:
    data = pictures()
    assert data.labels is not None
    pools = UniversalTriggers(sources="others")._pools(data, 3)
    assert [set(data.labels[pool].tolist()) for pool in pools] == [{1, 2}, {0, 2}, {0, 1}]
    with pytest.raises(Incompatible, match="could be inverted"):
        made(victim(), data.subset(data.labels == 1), sources="others")


def test_starts() -> None:
    draw = torch.Generator().manual_seed(0)
    masks, patterns = UniversalTriggers(init="constant")._start(draw, Tiny.task)
    assert torch.allclose(masks, torch.tensor((math.tanh(1) + 1) / 2))
    assert torch.equal(masks, patterns)
    masks, patterns = UniversalTriggers()._start(draw, Tiny.task)
    assert masks.shape == patterns.shape == (3, 1, 8, 8)
    assert 0 <= float(masks.min()) < 0.2 < 0.8 < float(masks.max()) < 1


def test_the_state_is_kept(tmp_path: Any) -> None:
    found = made(victim(), steps=2)
    save_state(found, tmp_path / "state.safetensors")
    fresh = UniversalTriggers().build(Tiny.task, None)
    load_state(fresh, tmp_path / "state.safetensors")
    assert isinstance(fresh, Triggers)
    assert fresh.norms == found.norms == pytest.approx(found.masks.sum((1, 2, 3)).tolist())
    assert torch.equal(fresh.reached, found.reached)


def test_some_images_of_each_class() -> None:
    data, draw = pictures(31), torch.Generator().manual_seed(3)
    assert data.labels is not None
    few = some_of_each(data, 4, draw)
    assert few.labels is not None
    assert few.labels.bincount().tolist() == [4, 4, 4]
    every = some_of_each(data, None, draw)
    assert every.labels is not None
    assert every.labels.bincount().tolist() == data.labels.bincount().tolist()
    assert not torch.equal(every.images, data.images)


def test_presets_are_valid_and_every_parameter_has_a_meaning() -> None:
    for preset in UniversalTriggers.presets.values():
        UniversalTriggers.model_validate_json(json.dumps(preset))
    assert all(field.description for field in UniversalTriggers.model_fields.values())
    assert UniversalTriggers().rule().down == pytest.approx(2**1.5)
