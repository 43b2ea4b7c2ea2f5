from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from harness import Incompatible
from plugins.parts import pervasive
from plugins.parts.pervasive_backdoors import Pervasive, Toned, cut
from plugins.parts.pervasive_search import Search
from plugins.parts.pervasive_settings import AUTHOR, PervasiveSettings
from plugins.parts.similarity import similarity
from tests.kit.coded import search, tiny_codec, tiny_lot

pytestmark = pytest.mark.usefixtures("one_thread")

PAIRS = [(0, 1), (1, 2), (2, 0)]


def settings(**changes: Any) -> PervasiveSettings:
    return PervasiveSettings(**{"z": 2, "m": 3, "batch": 4, **changes})


def state(made: Search, lane: int) -> Tensor:
    return torch.cat([tensor[lane].detach().flatten() for tensor in made.parameters])


# --- the loss -------------------------------------------------------------------------------------


def test_a_step_goes_down_the_loss_restated() -> None:
    """One step of Adam on the gradient of Eq. 11, written term by term for a single lane."""
    asked = settings(batch=10, alpha=0.02, dropout=0.0)
    made = search([(1, 2)], asked)
    codec, lot = tiny_codec(), made.lot
    parameters = [tensor[0].detach().clone().requires_grad_() for tensor in made.parameters]
    mean, deviation, kernels = parameters
    order = torch.randperm(10, generator=made.access.generator("search/order"))
    levels, features = lot.levels[1][order], lot.features[1][order]
    noise = torch.Generator().manual_seed(made.access.seed("search/noise"))
    drawn = codec.draws(levels, noise)
    own = (levels - levels.mean((2, 3), keepdim=True)) / (
        levels.std((2, 3), correction=0, keepdim=True) + 1e-5
    )
    toned = own * deviation.view(1, -1, 1, 1) + mean.view(1, -1, 1, 1)
    changed = pervasive.psi(codec.encoder(toned)[None], kernels[None])[0]
    decoded = codec.decoder(changed, codec.decoder.responses(drawn)).clamp(0, 255)
    targets = torch.full((10,), 2)
    error = functional.cross_entropy(made.model(decoded / 255), targets)
    content = functional.mse_loss(codec.encoder(decoded), features)
    around = functional.avg_pool2d(decoded, 3, 1, 1, count_include_pad=False)
    means = lot.levels[1].mean((0, 2, 3))
    deviations = lot.levels[1].std((2, 3), correction=0).mean(0)
    terms = (
        0.001 * content
        + 100 * (1 - similarity(decoded, levels, 255.0).mean())
        + 0.05 * functional.mse_loss(decoded, around)
        + (mean - means).abs().mean()
        + (deviation - deviations).abs().mean()
    )
    (error + 0.02 * terms).backward()  # type: ignore[no-untyped-call]
    adam = torch.optim.Adam(
        [{"params": [mean, deviation], "lr": 1.0}, {"params": [kernels], "lr": 3e-4}],
        betas=(0.5, 0.9),
    )
    adam.step()
    made.epoch()
    for ours, expected in zip(made.parameters, parameters, strict=True):
        torch.testing.assert_close(ours[0], expected, rtol=1e-3, atol=1e-4)


# --- lanes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["deck", "filter"])
def test_a_lane_finds_what_it_finds_alone(kind: str) -> None:
    asked = settings(dropout=0.1 if kind == "deck" else 0.0)
    together = search(PAIRS, asked, kind)
    for _ in range(4):
        together.epoch()
    for lane, pair in enumerate(PAIRS):
        alone = search([pair], asked, kind)
        for _ in range(4):
            alone.epoch()
        torch.testing.assert_close(state(together, lane), state(alone, 0), rtol=1e-3, atol=1e-3)


def test_how_many_go_together_moves_rounding_errors_only() -> None:
    many, few = search(PAIRS, settings(at_once=1000)), search(PAIRS, settings(at_once=1))
    for made in (many, few):
        for _ in range(3):
            made.epoch()
    for lane in range(3):
        torch.testing.assert_close(state(many, lane), state(few, lane), rtol=1e-3, atol=1e-3)
    here = many.ask([0, 2], many.parameters, many.lot)
    there = few.ask([0, 2], many.parameters, few.lot)
    torch.testing.assert_close(here.distance, there.distance, rtol=1e-4, atol=1e-5)
    assert torch.equal(here.success, there.success)


def test_where_memory_is_short_fewer_lanes_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    made = search(PAIRS, settings(at_once=1000))
    plain = search(PAIRS, settings(at_once=1000))
    sizes: list[int] = []
    through = made._pass

    def tight(places: Tensor, draws: Any, lanes: list[int]) -> Tensor:
        sizes.append(len(lanes))
        if len(lanes) > 1:
            raise torch.OutOfMemoryError("no room")
        return through(places, draws, lanes)

    monkeypatch.setattr(made, "_pass", tight)
    made.epoch()
    plain.epoch()
    assert sizes[:4] == [3, 1, 1, 1]
    for lane in range(3):
        torch.testing.assert_close(state(made, lane), state(plain, lane), rtol=1e-3, atol=1e-3)
    assert made.access.images_processed == plain.access.images_processed == 3 * 10


def test_a_search_goes_on_where_it_stopped() -> None:
    whole, first = search(PAIRS, settings()), search(PAIRS, settings())
    for _ in range(6):
        whole.epoch()
    for _ in range(3):
        first.epoch()
    second = search(PAIRS, settings())
    second.load_state_dict(first.state_dict())
    second._order.set_state(first._order.get_state())
    for _ in range(3):
        second.epoch()
    assert second.distances == whole.distances
    for lane in range(3):
        assert torch.equal(state(whole, lane), state(second, lane))
        assert second.controllers[lane].cost == whole.controllers[lane].cost


# --- what counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["deck", "filter"])
def test_pictures_are_turned_at_a_distance_that_is_asked_at_rest(kind: str) -> None:
    asked = settings(level_rate=4.0, bound=0.9)
    made = search([(0, 1), (2, 1)], asked, kind)
    for _ in range(40):
        made.epoch()
    answer = made.ask([0, 1], made.best, made.lot)
    assert answer.success.min() >= 0.9
    assert answer.distance.tolist() == pytest.approx(made.distances, rel=1e-4)
    assert all(0 < distance < math.inf for distance in made.distances)
    further = made.ask([0, 1], made.best, tiny_lot(tiny_codec(), 12, first=20))
    assert further.success.min() >= 0.5
    early = made.distances
    for _ in range(40):
        made.epoch()
    assert all(now <= then for now, then in zip(made.distances, early, strict=True))


def test_a_lane_that_succeeds_only_while_it_moves_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = search([(0, 1)], settings())
    monkeypatch.setattr(
        made, "_descend", lambda lanes, places: (torch.ones(1), torch.full((1,), 5.0))
    )
    at_rest = made.ask([0], made.parameters, made.lot)
    assert float(at_rest.success) < 0.9
    made.epoch()
    assert made.distances == [math.inf]


def test_the_weight_of_the_terms_rises_falls_and_has_a_floor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = search([(0, 1)], settings(patience=1, alpha=1.0, floor=0.5, up=2.0))
    monkeypatch.setattr(
        made, "_descend", lambda lanes, places: (torch.zeros(1), torch.full((1,), 5.0))
    )
    made.epoch()
    assert made.controllers[0].cost == pytest.approx(0.5)
    made.epoch()
    assert made.controllers[0].cost == 0.5
    monkeypatch.setattr(
        made, "_descend", lambda lanes, places: (torch.ones(1), torch.full((1,), 5.0))
    )
    made.controllers[0].best = 1.0  # nothing to ask again
    made.epoch()
    assert made.controllers[0].cost == pytest.approx(1.0)


# --- the backdoors --------------------------------------------------------------------------------


def test_starts() -> None:
    codec = tiny_codec()
    usual = (torch.tensor([[10.0], [20.0]]), torch.tensor([[3.0], [4.0]]))
    generator = torch.Generator().manual_seed(0)
    same = Pervasive(settings(spread=0.0), codec, (4, 4)).start(usual, generator)
    assert torch.equal(same[0], usual[0])
    assert torch.equal(same[1], usual[1])
    assert torch.equal(same[2][1], pervasive.identity(2, 64, 3))
    author = PervasiveSettings.model_validate(AUTHOR)
    drawn = Pervasive(author, codec, (4, 4)).start(usual, generator)
    assert [tuple(tensor.shape) for tensor in drawn] == [
        (2, 1),
        (2, 1),
        (2, 1, 1, 64, 64, 3, 3),
        (2, 1, 1, 64),
    ]
    assert float(drawn[2].std()) == pytest.approx(math.sqrt(2 / (2 * 64 * 9)), rel=0.02)
    assert torch.equal(drawn[2][0], drawn[2][1])
    assert 0 <= float(drawn[0].min()) <= float(drawn[0].max()) <= 255
    assert len(Toned(author).start(usual, generator)) == 2
    with pytest.raises(Incompatible, match="features of 4 x 4 do not fall into 3 x 3 regions"):
        Pervasive(settings(z=3), codec, (4, 4))


def test_the_authors_backdoor_restated() -> None:
    """Normalised features, one convolution with a bias, channels dropped while it is searched."""
    asked = PervasiveSettings.model_validate(AUTHOR)
    codec, lot = tiny_codec(), tiny_lot(tiny_codec(), 6)
    kind = Pervasive(asked, codec, (4, 4))
    usual = (torch.full((1, 1), 100.0), torch.full((1, 1), 30.0))
    mean, deviation, kernels, bias = kind.start(usual, torch.Generator().manual_seed(0))
    draws = kind.draws(lot.levels[0], torch.Generator().manual_seed(5), True)
    assert draws.kept is not None
    assert 0 < float(draws.kept.mean()) < 1
    features = codec.encoder(lot.standard[0] * deviation[0, 0] + mean[0, 0])
    centred = features - features.mean((2, 3), keepdim=True)
    normal = centred / (features.std((2, 3), correction=0, keepdim=True) + 1e-5)
    changed = functional.conv2d(normal, kernels[0, 0, 0], bias[0, 0, 0], padding=1)
    kept = changed * draws.kept[:, :, None, None] / 0.9
    expected = codec.decoder(kept, draws.responses).clamp(0, 255)
    found = kind.applied([mean, deviation, kernels, bias], lot.standard[:1], draws)
    torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-2)
    assert kind.draws(lot.levels[0], torch.Generator(), False).kept is None


def test_cuts() -> None:
    levels = torch.tensor([-5.0, 100.0, 300.0], requires_grad=True)
    inside = [0.0, 100.0, 255.0]
    for clip, expected, slopes in (
        ("straight", inside, [1, 1, 1]),
        ("hard", inside, [0, 1, 0]),
        ("none", [-5.0, 100.0, 300.0], [1, 1, 1]),
    ):
        made = cut(levels, settings(clip=clip))
        assert made.tolist() == expected
        (slope,) = torch.autograd.grad(made.sum(), levels)
        assert slope.tolist() == slopes
