from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from harness import Incompatible, Recipe, Result
from harness.learn.images import ImageSet, to_float
from plugins.defenses.deck import DECK
from plugins.parts import pervasive
from plugins.parts.pervasive_hardening import PervasiveTriggers, pervasive_hardening
from plugins.parts.pervasive_search import Lot, Search
from plugins.parts.pervasive_settings import PervasiveSettings
from tests.kit.coded import search, tiny_codec
from tests.kit.learned import Tiny, access_to, pictures
from tests.kit.scanned import TARGET, acc, scanning, victim

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Any] = {
    "z": 2,
    "level_rate": 4.0,
    "steps": 27,
    "batch": 30,
    "of_pair": 8,
    "warm_per_class": 4,
    "warm_epochs": 8,
    "first_epochs": 8,
    "again_epochs": 3,
    "lr": 0.003,
    "crop": 0,
    "flip": False,
}


def waved(images: Tensor) -> Tensor:
    """Return uint8 images with stripes all over them."""
    wave = torch.tensor([30, -30] * 4).view(1, 1, 8, 1)
    return (images.int() + wave).clamp(0, 255).to(torch.uint8)


@cache
def striped(norms: bool) -> nn.Module:
    """Return a network that knows the pictures and takes striped ones for TARGET."""
    data = pictures(180)
    data = data.join(ImageSet(waved(data.images), torch.full((180,), TARGET)))
    with torch.random.fork_rng():
        torch.manual_seed(0 if norms else 1)
        net = Tiny(norms=norms).build(Tiny.task)
        access_to(net).fit(net, data, epochs=80, batch=32, lr=0.05)
    return net.eval()


def hardened(net: nn.Module, data: ImageSet | None = None, **fields: Any) -> Result:
    access = scanning(net, data or pictures(60), decoder=tiny_codec())
    return DECK(**{**SMALL, **fields}).defend(access)


def distances(net: nn.Module) -> list[float]:
    """Return the distances of both other classes to TARGET, of images that hardening has not
    seen.
    """
    asked = PervasiveSettings(z=2, level_rate=4.0)
    made = search([(0, TARGET), (1, TARGET)], asked, net=net)
    for _ in range(30):
        made.epoch()
    return made.distances


@pytest.mark.parametrize(
    ("norms", "fields"),
    [(True, {}), (True, {"bn": "frozen", "lr": 0.002, "steps": 33}), (False, {})],
)
def test_a_short_way_between_classes_is_lengthened(norms: bool, fields: dict[str, Any]) -> None:
    """A pervasive backdoor is such a way."""
    before = distances(striped(norms))
    assert max(before) < 3
    found = hardened(striped(norms), **fields)
    assert found.model is not None
    assert not found.model.training
    assert acc(found.model) > 0.9
    assert sum(distances(found.model)) > 1.3 * sum(before)
    steps = fields.get("steps", 27)
    assert found.record["periods"] == (steps - 3) // 3
    assert found.record["stamped"] > 0
    assert found.record["distance"] > 0


def test_the_same_seed_hardens_alike() -> None:
    first = hardened(victim(), steps=7)
    second = hardened(victim(), steps=7)
    assert first.record == second.record
    assert first.model is not None
    assert second.model is not None
    for one, other in zip(
        first.model.state_dict().values(), second.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


# --- generation -----------------------------------------------------------------------------------


def triggers(net: nn.Module | None = None, **fields: Any) -> PervasiveTriggers:
    net = net or striped(True)
    data = pictures(60)
    return PervasiveTriggers(
        DECK(**{**SMALL, **fields}), scanning(net, data), net, tiny_codec(), data
    )


def of_classes(first: int, second: int) -> Tensor:
    data = pictures(60)
    assert data.labels is not None
    return torch.stack([data.images[data.labels == label][:8] for label in (first, second)])


def test_both_ways_are_turned_to_the_other_class() -> None:
    made = triggers(first_epochs=60)
    made.begin((0, 2))
    for images, way, target in zip(
        of_classes(0, 2), made.both(of_classes(0, 2)), (2, 0), strict=True
    ):
        assert way.stamp is not None
        assert way.distance is not None
        with torch.no_grad():
            turned = striped(True)(way.stamp(to_float(images))).argmax(1) == target
        assert float(turned.float().mean()) >= 0.6  # the decoder draws anew at each stamping


def test_stamping_restated() -> None:
    made = triggers()
    made.begin((0, 2))
    way, _ = made.both(of_classes(0, 2))
    assert way.stamp is not None
    mean, deviation, kernels = made.stored["0-2"]
    images = to_float(of_classes(1, 0)[0])
    levels = 255 * images
    centred = levels - levels.mean((2, 3), keepdim=True)
    normal = centred / (levels.std((2, 3), correction=0, keepdim=True) + 1e-5)
    toned = normal * deviation.view(1, -1, 1, 1) + mean.view(1, -1, 1, 1)
    codec = tiny_codec()
    changed = pervasive.psi(codec.encoder(toned)[None], kernels[None])[0]
    drawn = codec.draws(levels, scanning(victim()).generator("decoder"))
    decoded = codec.decoder(changed, codec.decoder.responses(drawn)).clamp(0, 255)
    torch.testing.assert_close(way.stamp(images), decoded / 255, rtol=1e-3, atol=1e-4)


def test_a_pair_goes_on_from_where_its_last_search_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[int, list[Tensor]]] = []
    go_on = Search.go_on

    def watched(self: Search, lane: int, parameters: Any) -> None:
        begun.append((lane, [tensor.clone() for tensor in parameters]))
        go_on(self, lane, parameters)

    monkeypatch.setattr(Search, "go_on", watched)
    made = triggers(least=0.0)
    made.begin((0, 2))
    made.both(of_classes(0, 2))
    assert begun == []
    stored = {name: list(tensors) for name, tensors in made.stored.items()}
    assert stored.keys() == {"0-2", "2-0"}
    made.begin((2, 0))  # the other way round, in another period
    made.both(of_classes(2, 0))
    assert [lane for lane, _ in begun] == [0, 1]
    for (_, parameters), name in zip(begun, ("2-0", "0-2"), strict=True):
        for given, kept in zip(parameters, stored[name], strict=True):
            assert torch.equal(given, kept)
    assert not torch.equal(made.stored["0-2"][2], stored["0-2"][2])


def test_a_search_that_goes_on_begins_there() -> None:
    settings = PervasiveSettings(z=2)
    first = search([(0, 1), (1, 2)], settings)
    for _ in range(3):
        first.epoch()
    second = search([(0, 1), (1, 2)], settings)
    fresh = [tensor[0].clone() for tensor in second.parameters]
    second.go_on(1, [tensor[1].detach() for tensor in first.parameters])
    for place, tensor in enumerate(second.parameters):
        assert torch.equal(tensor[1], first.parameters[place][1])
        assert torch.equal(second.best[place][1], tensor[1])
        assert torch.equal(tensor[0], fresh[place])


def test_a_period_begins_with_the_longer_search(monkeypatch: pytest.MonkeyPatch) -> None:
    made = triggers(first_epochs=5, again_epochs=2)
    epochs: list[int] = []
    monkeypatch.setattr(Search, "epoch", lambda self: epochs.append(made.now["searches"]))
    for _ in range(2):
        made.begin((0, 1))
        made.both(of_classes(0, 1))
        made.both(of_classes(0, 1))
    assert epochs == [1] * 5 + [2] * 2 + [3] * 5 + [4] * 2


@pytest.mark.parametrize(
    ("least", "stamps"), [(0.5, True), (0.6, False)], ids=["enough", "too few"]
)
def test_what_misses_the_bound_has_no_distance_and_is_stamped_if_it_turns_enough(
    least: float, stamps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked at rest, a lane turns half of the images."""
    made = triggers(least=least, bound=0.9, first_epochs=1)
    monkeypatch.setattr(Search, "epoch", lambda self: None)
    ask = Search.ask

    def half(self: Search, lanes: Any, parameters: Any, lot: Lot) -> Any:
        answer = ask(self, lanes, parameters, lot)
        return type(answer)(
            torch.full_like(answer.success, 0.55), answer.distance, answer.similarity
        )

    monkeypatch.setattr(Search, "ask", half)
    made.begin((0, 1))
    for way in made.both(of_classes(0, 1)):
        assert way.distance is None
        assert (way.stamp is not None) == stamps
    # what turns too few is no place to go on from
    assert bool(made.stored) == stamps


def test_the_warm_up_generates_on_images_of_all_other_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lots: list[Tensor] = []
    of = Lot.of

    def watched(images: Tensor, encoder: nn.Module, at_once: int) -> Lot:
        lots.append(images)
        return of(images, encoder, at_once)

    monkeypatch.setattr(Lot, "of", watched)
    way = triggers(warm_epochs=1).universal(1)
    (images,) = lots
    assert images.shape == (1, 8, 8, 8, 1)  # four of each of two classes
    data = pictures(60)
    assert data.labels is not None
    own = data.images[data.labels == 1]
    assert not any((own == image).flatten(1).all(1).any() for image in images[0])
    # pairs need a first distance, whether the bound was met or not
    assert way.distance is not None
    assert math.isfinite(way.distance)


# --- the ablation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "decoder",
    [
        {"upsampling": "zero"},
        {"upsampling": "nearest"},
        {"upsampling": "swwae"},
        {"layer": "pool2"},
    ],
)
def test_other_decoders_serve(decoder: dict[str, Any]) -> None:
    access = scanning(victim(), pictures(60), decoder=tiny_codec(**decoder))
    found = DECK(**{**SMALL, "z": 1, "steps": 5, "least": 0.0}).defend(access)
    assert found.record["stamped"] > 0


@pytest.mark.parametrize("term", ["content", "ssim", "smooth", "norm"])
def test_terms_of_the_loss_can_be_left_out(term: str) -> None:
    """The weights are the generator's, so another backdoor is found."""
    ends: list[Tensor] = []
    for fields in ({"alpha": 1.0}, {"alpha": 1.0, term: 0.0}):
        made = triggers(least=0.0, **fields)
        made.begin((0, 2))
        made.both(of_classes(0, 2))
        ends.append(torch.cat([tensor.flatten() for tensor in made.stored["0-2"]]))
    assert not torch.equal(ends[0], ends[1])


# --- parameters -----------------------------------------------------------------------------------


def test_presets_are_valid_and_defaults_are_the_papers() -> None:
    found = {
        name: DECK.model_validate_json(json.dumps(preset)) for name, preset in DECK.presets.items()
    }
    paper = found["deck"]
    assert (paper.content, paper.ssim, paper.smooth, paper.norm) == (0.001, 100, 0.05, 1)
    assert (paper.lr, paper.momentum, paper.nesterov, paper.bound) == (1e-3, 0.9, True, 0.9)
    assert found["author"].z == 1
    assert all(field.description for field in DECK.model_fields.values())


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"stamped": 0.0}, "stamped"),
        ({"least": 1.5}, "least"),
        ({"first_epochs": 0}, "first_epochs"),
        ({"m": 2}, "m"),
        ({"bn": "off"}, "bn"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DECK(**fields)
    assert [error["loc"] for error in caught.value.errors()] == [(name,)]


def test_features_that_do_not_fall_into_regions_are_incompatible() -> None:
    access = scanning(victim(), pictures(60))
    with pytest.raises(Incompatible, match="4 x 4 do not fall into 3 x 3 regions"):
        pervasive_hardening(
            DECK(z=3), access, access.victim(), tiny_codec(), access.clean(), Recipe()
        )
