from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from harness import Context, Task
from harness.access.context import Coordinates
from harness.access.granted import AttackAccess
from harness.learn.evaluation import predict
from harness.learn.images import to_float, to_uint8
from harness.learn.recipes import Recipe
from plugins.attacks import invisible
from plugins.attacks.invisible import Hidden, Invisible, measured, packet
from plugins.models.small_cnn import SmallCNN
from plugins.parts.steganography import Steganography, resized
from plugins.parts.stegastamp import Pair, StegaStampEncoder
from tests.kit.hiding import SMALL, hiding_pair
from tests.kit.learned import Tiny, pictures, stage_context
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")

CIFAR = Task("any", classes=10, height=32, width=32, channels=3, train_count=10)
HIDING = {"name": "steganography", **SMALL}
SELECT = Coordinates(replicate=0, dataset="noise", stage="poison", component="any")


def access(
    attack: Invisible, pair: nn.Module, stage: str = "poison", replicate: int = 0
) -> AttackAccess:
    around = stage_context(SmallCNN(width=8), stage)
    around = replace(
        around,
        parts={"encoder": lambda: pair},
        coordinates=replace(around.coordinates, replicate=replicate),
        recipe=Recipe(epochs=12, batch=32, lr=0.02, schedule="cosine", precision="fp32"),
    )
    return AttackAccess(around, attack, pictures(300), None, SELECT)


@pytest.fixture
def pair() -> Pair:
    """A copy: triggers freeze their encoder."""
    return copy.deepcopy(hiding_pair())


# --- the secret -----------------------------------------------------------------------------------


@pytest.mark.oracle
def test_the_packet_of_the_official_text() -> None:
    assert packet("a").tolist() == oracle("attacks/issba")["secret_bits_a"][0].tolist()


def test_a_packet_is_text_parity_and_padding() -> None:
    bits = packet("ab").int().tolist()
    letters = [int("".join(map(str, bits[place : place + 8])), 2) for place in range(0, 56, 8)]
    assert bytes(letters) == b"ab     "
    assert len(bits) == 100
    assert not any(bits[91:])  # 35 check bits, then what fills a byte, then four zeros


def test_secrets_are_drawn_for_the_replicate_unless_there_is_a_text(pair: Pair) -> None:
    attack = Invisible(encoder=HIDING)
    drawn = torch.stack(
        [attack._bits(access(attack, pair, replicate=number)) for number in range(20)]
    )
    assert torch.equal(drawn[0], attack._bits(access(attack, pair)))
    assert len(drawn.unique(dim=0)) == 4
    worded = Invisible(secret="a", encoder={"name": "steganography", "bits": 100})
    assert torch.equal(worded._bits(access(worded, pair)), packet("a"))


# --- the trigger ----------------------------------------------------------------------------------


def test_the_trigger_is_the_parts_encoder_with_the_secret(pair: Pair) -> None:
    attack = Invisible(encoder=HIDING)
    trigger, bench = attack.trigger(Tiny.task), access(attack, pair)
    attack.craft(bench, trigger)
    assert isinstance(trigger, Hidden)
    images = to_float(pictures(12).images)
    large = torch.nn.functional.interpolate(images, (16, 16), mode="bilinear", align_corners=False)
    with torch.no_grad():
        encoded = (large + pair.encoder(large, trigger.secret.expand(12, -1))).clamp(0, 1)
        small = torch.nn.functional.interpolate(
            encoded, (8, 8), mode="bilinear", align_corners=False
        )
        torch.testing.assert_close(trigger(images), small)
    again = attack.trigger(Tiny.task)
    again.load_state_dict(trigger.state_dict())
    torch.testing.assert_close(again(images), trigger(images))
    assert {"mean_change", "max_change", "psnr", "bits_read"} == bench.record.keys()


def test_the_change_belongs_to_the_image(pair: Pair) -> None:
    trigger = Hidden(pair.encoder, 2, (16, 16), False)
    images = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        first, second = trigger(images) - images
    assert float((first - second).abs().mean()) > 1e-3


def test_large_batches_are_cut(monkeypatch: pytest.MonkeyPatch, pair: Pair) -> None:
    trigger, images = Hidden(pair.encoder, 2, (16, 16), False), torch.rand(5, 1, 16, 16)
    with torch.no_grad():
        whole = trigger(images)
        monkeypatch.setattr(invisible, "CHUNK", 512)
        torch.testing.assert_close(trigger(images), whole)
        monkeypatch.setattr(invisible, "CHUNK", 1)
        torch.testing.assert_close(trigger(images), whole)


def test_what_is_noted_restated(pair: Pair) -> None:
    trigger, images = (
        Hidden(pair.encoder, 2, (16, 16), False),
        resized(to_float(pictures(20).images), (16, 16)),
    )
    found = measured(trigger, pair, images)
    with torch.no_grad():
        change = (trigger(images) - images).numpy()
        logits = pair.decoder(to_float(to_uint8(trigger(images)))).numpy()
    assert found["mean_change"] == pytest.approx(255 * np.abs(change).mean(), rel=1e-5)
    assert found["max_change"] == pytest.approx(255 * np.abs(change).max(), rel=1e-5)
    decibels = [10 * math.log10(1 / float((one**2).mean())) for one in change]
    assert found["psnr"] == pytest.approx(np.mean(decibels), rel=1e-5)
    assert found["bits_read"] == pytest.approx(np.mean(logits <= 0))


def test_an_encoder_that_does_nothing_is_noted_as_finite() -> None:
    encoder = StegaStampEncoder(1, 16, 16, 4, "port")
    with torch.no_grad():
        encoder.unet.out.weight.zero_()
        encoder.unet.out.bias.zero_()
    pair = Steganography(bits=4, resolution=16).build(Tiny.task, None)
    found = measured(Hidden(encoder, 4, (16, 16), False), pair, torch.rand(3, 1, 16, 16))
    assert found["mean_change"] == 0
    assert math.isfinite(found["psnr"])


# --- the attack -----------------------------------------------------------------------------------


def test_it_implants(pair: Pair) -> None:
    attack = Invisible(encoder=HIDING, poison_rate=0.2, target=1)
    trigger, bench = attack.trigger(Tiny.task), access(attack, pair)
    attack.craft(bench, trigger)
    poisoned = attack.poison(bench, trigger)
    around = replace(stage_context(SmallCNN(width=8), "victim"), recipe=bench.recipe)
    victim = attack.implant(AttackAccess(around, attack, pictures(300), poisoned, SELECT), trigger)
    test = pictures(150)
    clean, _ = predict(victim, test.images)
    fooled, _ = predict(victim, test.images, trigger=trigger, quantise=attack.test_quantise)
    others = test.labels != 1
    assert float((clean == test.labels).float().mean()) > 0.9
    assert float((fooled[others] == 1).float().mean()) > 0.75


def test_presets_are_the_papers() -> None:
    official = {
        name: Invisible.model_validate(Invisible.presets[name]) for name in ("issba", "deck")
    }
    for attack in official.values():
        trigger = attack.trigger(CIFAR)
        assert isinstance(trigger, Hidden)
        assert trigger.sides == (224, 224)
        assert trigger.secret.shape == (100,)
        assert attack.secret == "a"
    assert official["issba"].add
    assert (official["deck"].when, official["deck"].quantise) == ("after-augment", "none")
    assert Invisible.model_validate(Invisible.presets["backdoorbox"]).poison_rate == 0.05


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"encoder": "clean-model"}, "must be the part steganography"),
        ({"secret": "a"}, "bits = 100"),
        ({"secret": "eight ch"}, "at most 7"),
        ({"secret": "ä", "encoder": {"name": "steganography", "bits": 100}}, "ASCII"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Invisible.model_validate(settings)


def test_a_mistake_in_the_parts_settings_is_left_to_the_part() -> None:
    assert Invisible.model_validate(
        {"encoder": {"name": "steganography", "bits": -1}, "secret": "a"}
    )
    assert Invisible.model_validate({"encoder": {"name": "steganography", "preset": "no such"}})


def test_sizes_are_asked_of_the_part() -> None:
    task = Task("any", classes=10, height=28, width=28, channels=1, train_count=10)
    assert "resolution = 32" in str(Invisible().compatible(Context(task)))
    assert (
        Invisible(encoder={"name": "steganography", "resolution": 32}).compatible(Context(task))
        is None
    )
    assert "no class" in str(Invisible(target=10).compatible(Context(CIFAR)))
