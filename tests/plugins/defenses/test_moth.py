from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from harness import Context, Incompatible, Result, Task
from harness.access.granted import Access
from harness.learn.images import ImageSet, to_float
from harness.learn.layers import NORMS
from plugins.defenses.moth import MOTH, Hardening
from plugins.parts.inversion import Found
from plugins.parts.universal_triggers import Triggers, UniversalTriggers
from tests.kit.learned import Tiny, pictures
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


def hardening(
    fields: dict[str, Any] | None = None, data: ImageSet | None = None
) -> tuple[Access, Hardening]:
    access = scanning(victim(), data or pictures(60))
    return access, Hardening(
        MOTH(**{**SMALL, **(fields or {})}), access, access.victim(), access.clean()
    )


def triggers() -> list[Found]:
    """White on the upper half, and black on all."""
    upper = torch.zeros(1, 8, 8)
    upper[:, :4] = 1
    return [
        Found(upper, torch.ones(1, 8, 8), True),
        Found(torch.ones(1, 8, 8), torch.zeros(1, 8, 8), True),
    ]


def trained_on(work: Hardening, found: list[Found]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the batch of a step on the pair (2, 0) of the first images of both classes."""
    seen: list[Any] = []
    work._step = lambda images, labels: seen.append((images, labels))  # type: ignore[method-assign]
    work._train((2, 0), work.pools[2][:8], work.pools[0][:8], found)
    images, labels = seen[0]
    return images, labels


def test_both_classes_are_stamped_and_keep_their_labels() -> None:
    _, work = hardening({"stamped": 0.25})
    images, labels = trained_on(work, triggers())
    assert labels.tolist()[:16] == [2] * 8 + [0] * 8
    # the rest of the batch is of other classes
    assert labels.tolist()[16:] == [1] * 14
    plain = to_float(work.images[torch.cat([work.pools[2][:8], work.pools[0][:8]])])
    changed = [row for row in range(16) if not torch.equal(images[row], plain[row])]
    assert changed == [0, 1, 8, 9]
    assert (images[:2, :, :4] == 1).all()
    assert torch.equal(images[:2, :, 4:], plain[:2, :, 4:])
    assert (images[8:10] == 0).all()
    assert work.record["stamped"] == 4


def test_one_image_is_stamped_at_least_and_no_trigger_that_failed_or_is_too_large() -> None:
    _, work = hardening({"stamped": 0.01, "largest": 0.6})
    trained_on(work, triggers())
    assert work.record["stamped"] == 1  # the black one covers all of the image
    upper, black = triggers()
    trained_on(work, [Found(upper.mask, upper.pattern, False), black])
    assert work.record["stamped"] == 1


def test_a_rare_class_is_stamped_too() -> None:
    """In plain batches it would be so rare that a tenth of it is no image."""
    data = pictures(60)
    assert data.labels is not None
    rare = torch.cat([torch.nonzero(data.labels != 1).flatten(), torch.tensor([1, 4])])
    found = hardened(victim(), data.subset(rare), stamped=0.1)
    # 30 steps of two images each, but for searches that failed; and half of each warm-up batch
    assert found.record["stamped"] > 30


def test_where_nothing_is_found_the_network_stays_as_it_is() -> None:
    net = victim()
    _, work = hardening({"first_steps": 1, "again_steps": 1, "bound": 1.0, "explore": 1.0})
    before = [tensor.clone() for tensor in work.model.state_dict().values()]
    for step in range(3):
        work.harden(step)
    assert work.record["skipped_steps"] == 3
    assert (work.record["periods"], work.record["failed_periods"]) == (1, 1)
    after = work.model.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert acc(net) == acc(work.model.eval())


def test_a_period_keeps_its_pair_and_records_the_mean_of_its_distances() -> None:
    _, work = hardening({"first_steps": 30, "again_steps": 5})
    work.choice.begin(torch.tensor([10.0, 20.0, 5.0]))
    work.choice.learned[2, 1] = 5.0
    pairs = []
    for step in range(3):
        work.settings = MOTH(**{**SMALL, "explore": 0.0})
        work.harden(step)
        pairs.append(tuple(work.now["pair"]))
    assert len(set(pairs)) == 1
    assert set(pairs[0]) == {1, 2}
    source, other = pairs[0]
    for way, distances in zip(
        ((source, other), (other, source)), work.now["distances"], strict=True
    ):
        assert distances
        assert float(work.choice.size[way]) == pytest.approx(sum(distances) / len(distances))


def test_the_warm_up_records_what_each_class_learned() -> None:
    """Restated: half of the images of other classes carry the trigger; losses are of these, before
    and after the step.
    """
    access, work = hardening({"batch": 60})
    stamps = universal(victim())
    seen: list[Any] = []
    step = work._step

    def watched(images: torch.Tensor, labels: torch.Tensor) -> None:
        seen.append((images.clone(), labels.clone()))
        step(images, labels)

    work._step = watched  # type: ignore[method-assign]
    work.warm_up(1, stamps)
    images, labels = seen[0]
    draw = access.generator("batches")
    places = torch.randperm(60, generator=draw)
    plain = to_float(work.images[places])
    others = torch.nonzero(labels != 1).flatten()[:20]
    assert torch.equal(images[others], stamps.trigger(1)(plain[others]))
    untouched = [row for row in range(60) if row not in others.tolist()]
    assert torch.equal(images[untouched], plain[untouched])
    for source in (0, 2):
        rows = others[labels[others] == source]
        with torch.no_grad():
            losses = [
                functional.cross_entropy(net.eval()(images[rows]), labels[rows])
                for net in (victim(), work.model)
            ]
        expected = float((losses[0] - losses[1]) / losses[0])
        assert float(work.choice.learned[source, 1]) == pytest.approx(expected, rel=1e-3)
    assert (work.choice.learned[:, [0, 2]] == 0).all()


@pytest.mark.parametrize(("bn", "moves"), [("trained", True), ("frozen", False)])
def test_batchnorm_is_trained_or_frozen(bn: str, moves: bool) -> None:
    net = victim()
    found = hardened(net, bn=bn, steps=5, first_steps=2).model
    assert found is not None
    old, new = (
        torch.cat([layer.running_mean for layer in model.modules() if isinstance(layer, NORMS)])
        for model in (net, found)
    )
    assert torch.equal(old, new) != moves


def test_adversarial_images_are_stamped_where_the_network_was_trained_on_them() -> None:
    _, plain = hardening({"of_pair": 8})
    _, robust = hardening({"of_pair": 8, "pgd_eps": 10.0, "pgd_steps": 3, "pgd_step": 4.0})
    images, _ = trained_on(plain, triggers())
    moved, _ = trained_on(robust, triggers())
    gaps = (images - moved).abs().amax((1, 2, 3))
    assert float(gaps.max()) <= 10 / 255 + 1e-6
    # the stamp is on top
    assert [row for row in range(20) if gaps[row] == 0] == [8, 9, 10, 11]
    assert torch.equal(images[0, :, :4], moved[0, :, :4])


def test_presets_are_valid_and_say_where_versions_differ() -> None:
    found = {
        name: MOTH.model_validate_json(json.dumps(preset)) for name, preset in MOTH.presets.items()
    }
    keras, released = found["moth"], found["torch"]
    assert (keras.lr, keras.bn, keras.again_steps, keras.again_cost) == (1e-3, "trained", 40, 0.2)
    assert (released.lr, released.bn) == (1e-4, "frozen")
    assert (released.again_steps, released.again_cost, released.largest) == (50, 0.01, 0.25)
    assert all(field.description for field in MOTH.model_fields.values())


def test_a_class_without_images_is_incompatible() -> None:
    with pytest.raises(Incompatible, match="class 1"):
        hardening(data=pictures(30).subset(torch.arange(0, 30, 3)))


def test_one_class_is_incompatible() -> None:
    task = Task("one", classes=1, height=8, width=8, channels=1, train_count=9)
    assert MOTH().compatible(Context(task=task, recipe=None)) is not None
    assert MOTH().compatible(Context(task=Tiny.task, recipe=None)) is None
