from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness import Result
from harness.learn.images import ImageSet, to_float
from plugins.defenses.moth import MOTH, PatchTriggers
from plugins.parts.inversion import Found, blend
from plugins.parts.universal_triggers import Triggers, UniversalTriggers
from tests.kit.learned import pictures
from tests.kit.scanned import acc, asr, scanning, victim

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Any] = {
    "steps": 33,
    "batch": 30,
    "of_pair": 8,
    "first_steps": 30,
    "again_steps": 10,
    "again_cost": 0.05,
    "lr": 0.01,
    "stamped": 0.5,
    "crop": 0,
    "flip": False,
}


def universal(net: nn.Module) -> Triggers:
    part = UniversalTriggers(steps=30, images=None, sources="others", start="cost", batch=30)
    made = part.make(scanning(net))
    assert isinstance(made, Triggers)
    return made


def hardened(net: nn.Module, data: ImageSet | None = None, **fields: Any) -> Result:
    access = scanning(net, data or pictures(60), triggers=universal(net))
    return MOTH(**{**SMALL, **fields}).defend(access)


GENTLY: dict[str, Any] = {"lr": 0.002, "batch": 60, "of_pair": 16, "steps": 63}
"""Without BatchNorm the network takes smaller steps, and more."""


@pytest.mark.parametrize(("norms", "fields"), [(True, {}), (False, GENTLY)])
def test_a_short_way_between_classes_is_lengthened(norms: bool, fields: dict[str, Any]) -> None:
    """A backdoor is such a way."""
    net = victim(norms=norms)
    assert asr(net) > 0.95
    found = hardened(net, **fields)
    assert found.model is not None
    assert not found.model.training
    assert asr(found.model) < 0.5
    assert acc(found.model) > 0.9


@pytest.mark.parametrize("norms", [True, False])
def test_a_natural_network_keeps_its_accuracy(norms: bool) -> None:
    net = victim(backdoor=False, norms=norms)
    found = hardened(net, steps=12, lr=0.001)
    assert found.model is not None
    assert acc(found.model) > 0.9
    assert found.record["periods"] == 3
    assert found.record["stamped"] > 0
    assert found.record["distance"] > 0


def patches(net: nn.Module | None = None, **fields: Any) -> PatchTriggers:
    net = net or victim()
    access = scanning(net)
    return PatchTriggers(MOTH(**{**SMALL, **fields}), access, access.victim(), universal(net))


def of_classes(first: int, second: int, count: int = 8) -> Tensor:
    data = pictures(60)
    assert data.labels is not None
    return torch.stack([data.images[data.labels == label][:count] for label in (first, second)])


def test_a_trigger_that_failed_or_is_too_large_is_not_stamped() -> None:
    work = patches(largest=0.6)
    upper = torch.zeros(1, 8, 8)
    upper[:, :4] = 1
    white = Found(upper, torch.ones(1, 8, 8), True)
    way = work._way(white)
    assert way.distance == 32
    assert way.stamp is not None
    plain = to_float(pictures(4).images)
    assert torch.equal(way.stamp(plain), blend(plain, upper, torch.ones(1, 8, 8)))
    large = work._way(Found(torch.ones(1, 8, 8), torch.ones(1, 8, 8), True))
    assert (large.stamp, large.distance) == (None, 64)
    failed = work._way(Found(upper, torch.ones(1, 8, 8), False))
    assert (failed.stamp, failed.distance) == (None, None)


def test_both_ways_of_a_pair_are_found_and_go_on_from_the_period() -> None:
    """The backdoor's target is class 2."""
    work = patches(first_steps=60)
    work.begin((0, 2))
    forth, back = work.both(of_classes(0, 2))
    assert forth.stamp is not None
    assert forth.distance is not None
    stamped = forth.stamp(to_float(of_classes(0, 2)[0]))
    with torch.no_grad():
        assert float((victim()(stamped).argmax(1) == 2).float().mean()) >= 0.9
    assert work.now["triggers"][0] is not None
    began = work._begin(0, (0, 2))
    assert torch.equal(began[0], work.now["triggers"][0][0])
    work.begin((2, 0))  # another period: from the largest that is stored of the way
    kept = work.stored.start((0, 2), (torch.empty(0), torch.empty(0)))
    assert torch.equal(work._begin(1, (0, 2))[0], kept[0])
    assert (back.stamp is None) == (back.distance is None)


def test_a_period_begins_with_the_longer_inversion(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, float]] = []

    def watched(*given: Any) -> list[Found]:
        asked.append((given[5].steps, given[5].cost))
        return [Found(torch.ones(1, 8, 8), torch.ones(1, 8, 8), False)] * 2

    monkeypatch.setattr("plugins.defenses.moth.two_way", watched)
    work = patches()
    for _ in range(2):
        work.begin((0, 1))
        work.both(of_classes(0, 1))
        work.both(of_classes(0, 1))
    assert asked == [(30, 1e-3), (10, 0.05)] * 2


def test_the_warm_up_stamps_the_parts_triggers() -> None:
    stamps = universal(victim())
    work = patches()
    plain = to_float(pictures(6).images)
    for target in range(3):
        way = work.universal(target)
        assert way.stamp is not None
        assert torch.equal(way.stamp(plain), stamps.trigger(target)(plain))
        assert way.distance == stamps.norms[target]


def test_a_rare_class_is_stamped_too() -> None:
    """In plain batches it would be so rare that a tenth of it is no image."""
    data = pictures(60)
    assert data.labels is not None
    rare = torch.cat([torch.nonzero(data.labels != 1).flatten(), torch.tensor([1, 4])])
    found = hardened(victim(), data.subset(rare), stamped=0.1)
    # 30 steps of two images each, but for searches that failed; and half of each warm-up batch
    assert found.record["stamped"] > 30


def test_presets_are_valid_and_say_where_versions_differ() -> None:
    found = {
        name: MOTH.model_validate_json(json.dumps(preset)) for name, preset in MOTH.presets.items()
    }
    keras, released = found["moth"], found["torch"]
    assert (keras.lr, keras.bn, keras.again_steps, keras.again_cost) == (1e-3, "trained", 40, 0.2)
    assert (released.lr, released.bn) == (1e-4, "frozen")
    assert (released.again_steps, released.again_cost, released.largest) == (50, 0.01, 0.25)
    assert all(field.description for field in MOTH.model_fields.values())
