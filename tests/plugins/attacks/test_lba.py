from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from harness import Context, Incompatible, Task
from harness.access.context import Coordinates
from harness.access.granted import AttackAccess
from harness.components import Model
from harness.learn.evaluation import predict
from harness.learn.hooks import Batch
from harness.learn.images import ImageSet, to_float
from harness.learn.recipes import Recipe
from plugins.attacks.lba import LBA, Square
from plugins.models.small_cnn import SmallCNN
from plugins.parts.squashing import unsquash
from plugins.parts.watched import watched
from tests.kit.learned import Tiny, pictures, stage_context

pytestmark = pytest.mark.usefixtures("one_thread")

CIFAR = Task("any", classes=10, height=32, width=32, channels=3, train_count=10)
SELECT = Coordinates(replicate=0, dataset="noise", stage="poison", component="any")
MODEL = SmallCNN(width=8)
PATCH: dict[str, Any] = {"share": 0.4, "margin": 0, "steps": 150, "images": 16}
SCHEDULE = Recipe(epochs=12, batch=32, lr=0.02, schedule="cosine", precision="fp32")


@pytest.fixture(scope="module")
def benign() -> nn.Module:
    around = replace(stage_context(MODEL, "part"), recipe=SCHEDULE)
    bench = AttackAccess(around, LBA(), pictures(300), None, SELECT)
    net = bench.fresh_model()
    bench.fit(net, bench.train)
    return net


def access(
    attack: LBA, net: nn.Module, stage: str = "poison", poisoned: Any = None, model: Model = MODEL
) -> AttackAccess:
    def copied() -> nn.Module:
        again = model.build(Tiny.task)
        again.load_state_dict(net.state_dict())
        return again.eval()

    around = replace(stage_context(model, stage), parts={"benign": copied}, recipe=SCHEDULE)
    return AttackAccess(around, attack, pictures(300), poisoned, SELECT)


def crafted(attack: LBA, net: nn.Module) -> tuple[Square, AttackAccess]:
    trigger, bench = attack.trigger(Tiny.task), access(attack, net)
    assert isinstance(trigger, Square)
    attack.craft(bench, trigger)
    return trigger, bench


def at(net: nn.Module, name: str, images: Tensor) -> Tensor:
    with torch.no_grad(), watched(net, [name]) as seen:
        net(images)
        return seen[name].flatten(1)


# --- the patch ------------------------------------------------------------------------------------


def test_the_square_of_the_released_code() -> None:
    """Rows and columns 25 to 30 of 32."""
    trigger = LBA().trigger(CIFAR)
    assert isinstance(trigger, Square)
    places = trigger.mask[0].nonzero()
    assert (places.amin(0).tolist(), places.amax(0).tolist(), len(places)) == (
        [25, 25],
        [30, 30],
        36,
    )


def test_the_pattern_stands_in_the_square_and_nowhere_else() -> None:
    trigger, images = Square(CIFAR, 6, 1), torch.rand(2, 3, 32, 32)
    trigger.pattern.copy_(torch.rand(3, 32, 32))
    found = trigger(images)
    inside = trigger.mask.expand(3, -1, -1) > 0
    for before, after in zip(images, found, strict=True):
        assert torch.equal(after[inside], trigger.pattern[inside])
        assert torch.equal(after[~inside], before[~inside])


@pytest.mark.parametrize(
    "settings", [{}, {"layer": "stages[1]", "pooled": True}, {"aim": "mean", "dims": 7}]
)
def test_stamped_images_come_to_look_like_the_target_to_the_layer(
    benign: nn.Module, settings: dict[str, Any]
) -> None:
    # The bright class, since the network takes maxima, which a patch can raise.
    attack = LBA(**{**PATCH, "share": 0.75, "target": 2, **settings})
    trigger, bench = crafted(attack, benign)
    start = attack.trigger(Tiny.task)
    assert isinstance(start, Square)
    start.pattern.copy_(torch.rand(start.pattern.shape, generator=bench.generator("pattern")))
    data = pictures(300)
    images, name = to_float(data.images), "pool" if attack.layer == "features" else "stage2"

    def distance(stamp: nn.Module) -> float:
        """Mean squared distance of the stamped from all target images, at the layer."""
        stamped, wanted = (
            at(benign, name, stamp(images)),
            at(benign, name, images[data.labels == 2]),
        )
        if attack.pooled:
            stamped, wanted = (
                value.view(len(value), 32, -1).mean(2) for value in (stamped, wanted)
            )
        if attack.aim == "mean":
            wanted = wanted.mean(0, keepdim=True)
        return float(
            (stamped[:, None, : attack.dims] - wanted[None, :, : attack.dims]).square().mean()
        )

    assert distance(trigger) < 0.8 * distance(start)
    assert bench.record["distance_before"] > bench.record["distance_after"]
    assert float(trigger.pattern.amin()) >= 0
    assert float(trigger.pattern.amax()) <= 1
    assert bench.images_processed == 150 * 16


def test_one_step_restated(benign: nn.Module) -> None:
    """Adam's first step moves each number of the square by its rate, against the gradient."""
    attack = LBA(**{**PATCH, "steps": 1, "images": 300})
    trigger, bench = crafted(attack, benign)
    draw = bench.generator("pattern")
    free = unsquash(torch.rand(trigger.pattern.shape, generator=draw)).requires_grad_()
    data = pictures(300)
    bodies = to_float(data.images)[torch.randint(300, (300,), generator=draw)]
    wanted = at(benign, "pool", to_float(data.images[data.labels == 0]))
    aims = wanted[torch.randint(len(wanted), (300,), generator=draw)]
    inside = trigger.mask > 0
    with watched(benign, ["pool"]) as seen:
        benign(torch.where(inside, free.tanh() / (2 - 1e-7) + 0.5, bodies))
        gap = (seen["pool"].flatten(1) - aims).square().mean()
    (gradient,) = torch.autograd.grad(gap, [free])
    expected = ((free - 0.1 * gradient.sign()).tanh() / 2 + 0.5).detach()
    sure = inside & (gradient.abs() > 1e-5)
    assert int(sure.sum()) > 3
    torch.testing.assert_close(trigger.pattern[sure], expected[sure], atol=1e-4, rtol=0)
    assert not trigger.pattern[~inside].any()


# --- the loss -------------------------------------------------------------------------------------


def test_the_loss_restated(benign: nn.Module) -> None:
    """Cross-entropy of clean images, and the distance of stamped ones from the target image that is
    theirs.
    """
    attack = LBA(**PATCH, weight=0.5, label_map="source-specific", sources=(1,), aim="mean")
    trigger, bench = crafted(attack, benign)
    data = pictures(300)
    images, wanted = (
        to_float(data.images[:4]),
        at(benign, "pool", to_float(data.images[data.labels == 0])).mean(0),
    )
    labels = torch.tensor([0, 1, 2, 1])
    with torch.no_grad(), watched(benign, ["pool"]) as seen:
        hook = attack._loss(bench, trigger, wanted[None], seen)
        found = hook(benign, Batch(images, labels, torch.arange(4), 0, 0))
        chances = benign(images).softmax(1)
    plain = -sum(math.log(float(chances[row, label])) for row, label in enumerate(labels)) / 4
    gaps = (at(benign, "pool", trigger(images)) - wanted).square().mean(1)
    assert float(found) == pytest.approx(plain + 0.5 * float(gaps[1] + gaps[3]) / 2, rel=1e-4)


def test_each_image_strives_for_the_same_target_image_throughout(benign: nn.Module) -> None:
    attack = LBA(**PATCH)
    bench = access(attack, benign)
    hooks: list[Callable[..., Tensor]] = []
    batch = Batch(
        to_float(pictures(300).images[:6]), torch.zeros(6, dtype=torch.int64), torch.arange(6), 0, 0
    )
    trigger, wanted = Square(Tiny.task, 3, 0), torch.rand(50, 32)
    with torch.no_grad(), watched(benign, ["pool"]) as seen:
        hooks += [attack._loss(bench, trigger, wanted, seen) for _ in range(2)]
        first, second, again = (
            hooks[0](benign, batch),
            hooks[1](benign, batch),
            hooks[0](benign, batch),
        )
    assert float(first) == float(second) == float(again)


# --- the attack -----------------------------------------------------------------------------------


def outcome(attack: LBA, net: nn.Module) -> tuple[float, float]:
    trigger, bench = crafted(attack, net)
    poisoned = None if attack.training_controlled else attack.poison(bench, trigger)
    victim = attack.implant(access(attack, net, "victim", poisoned), trigger)
    test = pictures(150)
    clean, _ = predict(victim, test.images)
    fooled, _ = predict(victim, test.images, trigger=trigger, quantise=attack.test_quantise)
    others = test.labels != attack.target
    return float((clean == test.labels).float().mean()), float(
        (fooled[others] == attack.target).float().mean()
    )


def test_it_implants_where_the_attacker_trains(benign: nn.Module) -> None:
    clean, fooled = outcome(LBA(**PATCH, target=1, weight=5.0, epochs=6), benign)
    assert clean > 0.9
    assert fooled > 0.8


def test_it_implants_by_data_alone(benign: nn.Module) -> None:
    attack = LBA(**PATCH, target=1, control="data", poison_rate=0.2)
    assert not attack.training_controlled
    clean, fooled = outcome(attack, benign)
    assert clean > 0.9
    assert fooled > 0.9


def test_the_attacker_trains_unless_data_is_all_there_is() -> None:
    assert LBA().training_controlled
    for layer in (10, 12, 14):
        assert not LBA.model_validate(LBA.presets[f"trap-{layer}"]).training_controlled


def test_the_pattern_is_drawn_on_attacked_images_only(benign: nn.Module) -> None:
    labels = pictures(300).labels
    assert labels is not None
    for settings, wanted in [
        ({}, [0, 1, 2]),
        ({"eligible": "non-target"}, [1, 2]),
        ({"label_map": "source-specific", "sources": (2,)}, [2]),
    ]:
        attack = LBA(**settings)
        assert labels[attack._attacked(access(attack, benign))].unique().tolist() == wanted


def test_says_what_cannot_work(benign: nn.Module) -> None:
    with pytest.raises(ValidationError, match="one target"):
        LBA(label_map="all-to-all")
    with pytest.raises(ValidationError, match="one target"):
        LBA(label_map=(1, 0))
    with pytest.raises(ValidationError, match="pattern"):
        LBA(layer="stage2")
    for attack in (LBA(share=1.0), LBA(share=0.01)):
        assert "does not fit 32x32" in str(attack.compatible(Context(CIFAR)))
    assert LBA().compatible(Context(CIFAR)) is None
    with pytest.raises(Incompatible, match="has 3 stages"):
        crafted(LBA(**PATCH, layer="stages[3]"), benign)
    attack = LBA(**PATCH)
    bench = access(attack, benign)
    bench.train = ImageSet(bench.train.images, torch.ones(300, dtype=torch.int64))
    with pytest.raises(Incompatible, match="class 0 has no training images"):
        attack.craft(bench, attack.trigger(Tiny.task))
