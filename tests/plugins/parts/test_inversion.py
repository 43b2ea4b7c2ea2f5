from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from harness.access.granted import Access
from plugins.parts.inversion import BETAS, Controller, Endless, Inversion, Rule, blend
from plugins.parts.squashing import squash, unsquash
from tests.kit.learned import Tiny, access_to, pictures
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")


def network(norms: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return Tiny(norms=norms).build(Tiny.task).eval()


def starts(count: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.rand(count, 1, 8, 8, generator=draw), torch.rand(count, 1, 8, 8, generator=draw)


def inversion(
    targets: Sequence[int],
    net: nn.Module | None = None,
    at_once: int = 1000,
    rule: Rule | None = None,
) -> tuple[Access, Inversion]:
    net = net or network()
    access = access_to(net)
    rows = [part[list(targets)] for part in starts(3)]
    rule = rule or Rule(bound=0.3, start="cost", patience=1)
    controllers = [Controller(rule) for _ in targets]
    return access, Inversion(
        access, net, pictures().images, targets, (rows[0], rows[1]), controllers, 0.1, at_once
    )


def state(made: Inversion) -> list[Tensor]:
    return [
        torch.cat([mask.detach().flatten(), pattern.detach().flatten()])
        for mask, pattern in made.free
    ]


# --- formulae -------------------------------------------------------------------------------------


@pytest.mark.oracle
def test_masks_patterns_and_blending_are_those_of_the_official_code() -> None:
    recorded = oracle("defenses/nc_mask")
    close = {"rtol": float(recorded["tol_rtol"]), "atol": float(recorded["tol_atol"])}
    given_ = {
        name: torch.from_numpy(value) for name, value in recorded.items() if name.startswith("in_")
    }
    mask, pattern = squash(given_["in_mask_tanh"]), squash(given_["in_pattern_tanh"])
    np.testing.assert_allclose(mask, recorded["out_mask"], **close)
    np.testing.assert_allclose(255 * pattern, recorded["out_pattern_0_255"], **close)
    np.testing.assert_allclose(
        255 * blend(given_["in_image_0_255"] / 255, mask, pattern), recorded["out_x_adv"], **close
    )
    assert float(mask.abs().sum()) == pytest.approx(
        float(recorded["out_reg_l1"]), rel=close["rtol"]
    )
    np.testing.assert_allclose(
        unsquash(given_["in_init_mask"]), recorded["out_init_mask_tanh"], **close
    )
    # The toolbox divides by 2 + eps instead.
    np.testing.assert_allclose(mask, recorded["out_bb_mask"], atol=2e-7)


@pytest.mark.oracle
@pytest.mark.parametrize("run", ["a", "b"])
def test_the_cost_moves_as_in_the_official_code(run: str) -> None:
    recorded = oracle("defenses/nc_cost_controller")
    cost, patience, up, bound, slack, stop = recorded[f"par_run_{run}"].tolist()
    control = Controller(Rule(bound, cost, "zero", int(patience), up, up**1.5, slack, int(stop)))
    costs, best = [], []
    for success, size in zip(recorded["in_acc"].tolist(), recorded["in_reg"].tolist(), strict=True):
        costs.append(control.cost)
        control.update(success, size)
        best.append(control.best)
        if control.stopped:
            break
    assert len(costs) - 1 == int(recorded[f"out_{run}_last_step"])
    np.testing.assert_allclose(costs, recorded[f"out_{run}_cost"], rtol=float(recorded["tol_rtol"]))
    np.testing.assert_allclose(
        best, recorded[f"out_{run}_reg_best"], rtol=float(recorded["tol_rtol"])
    )


def trailing(history: Sequence[bool], value: bool) -> int:
    """How many of the last are `value`."""
    return next((n for n, one in enumerate(reversed(history)) if one is not value), len(history))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=60),
    st.integers(1, 4),
    st.sampled_from(["zero", "cost"]),
)
def test_the_cost_restated_from_its_history(
    told: list[tuple[bool, int]], patience: int, start: Any
) -> None:
    rule = Rule(bound=0.5, cost=1.0, start=start, patience=patience, up=4.0, down=8.0, stop=None)
    control, cost, best = Controller(rule), 1.0 if start == "cost" else 0.0, math.inf
    since: list[bool] = []  # steps since the cost last moved or was set
    before: list[bool] = []  # steps without a cost
    for won, size in told:
        better = won and size < best
        best = min(best, size) if won else best
        assert control.update(float(won), size) is better
        before.append(won)
        if cost == 0 and trailing(before, True) >= patience:
            cost, since = 1.0, []
        since.append(won)
        if (run := trailing(since, won)) and run % patience == 0:
            cost *= 4.0 if won else 1 / 8
        assert control.cost == pytest.approx(cost)
        assert (control.best, control.stopped) == (best, False)
    assert (control.steps, control.wins) == (len(told), sum(won for won, _ in told))


def test_a_lane_ends_when_nothing_improves_after_ups_and_downs() -> None:
    rule = Rule(bound=0.5, start="cost", patience=1, slack=1.0, stop=3)
    control = Controller(rule)
    sizes = [
        (1, 5.0),
        (1, 5.0),
        (1, 5.0),
        (1, 5.0),
        (0, 1.0),
    ]  # idle for 3 after the fourth, but the cost never fell
    for success, size in sizes:
        control.update(success, size)
        assert not control.stopped
    control.update(1, 4.0)  # an improvement starts the count anew
    for _ in range(2):
        control.update(1, 4.0)
        assert not control.stopped
    control.update(1, 4.5)
    assert control.stopped
    assert control.best == 4


# --- steps ----------------------------------------------------------------------------------------


def test_a_step_restated() -> None:
    """Mean cross-entropy plus cost times the sum of the mask, in pixel space, descended by Adam,
    lane by lane.
    """
    net, batches = network(), [torch.arange(0, 7)[None], torch.arange(7, 14)[None]]
    _, made = inversion([0, 2], net)
    pixels = pictures().images[:14].float().div(255).permute(0, 3, 1, 2)
    for lane, target in enumerate([0, 2]):
        mask, pattern = (part[target] for part in starts(3))
        u, v = (torch.atanh((2 - 1e-7) * (one - 0.5)).requires_grad_() for one in (mask, pattern))
        adam = torch.optim.Adam([u, v], lr=0.1, betas=(0.5, 0.9))
        for part in (pixels[:7], pixels[7:]):
            m, p = (torch.tanh(one) / (2 - 1e-7) + 0.5 for one in (u, v))
            logits = net(part * (1 - m) + m * p)
            loss = -torch.log_softmax(logits, 1)[:, target].mean() + 1e-3 * m.sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
        if lane == 0:
            made.step([0, 1], batches)
        torch.testing.assert_close(made.free[lane][0], u, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made.free[lane][1], v, rtol=1e-4, atol=1e-5)
    assert BETAS == (0.5, 0.9)


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_lanes_together_are_lanes_alone(norms: bool, own: bool) -> None:
    """They may see the same images or each its own, and may or may not fit into one batch."""
    net, draw = network(norms), torch.Generator().manual_seed(2)
    batches = [torch.randint(0, 30, (3 if own else 1, 5), generator=draw) for _ in range(8)]
    _, together = inversion([0, 1, 2], net)
    _, in_two = inversion([0, 1, 2], net, at_once=10)
    for batch in batches:
        together.step(range(3), [batch])
        in_two.step(range(3), [batch])
    for lane in range(3):
        _, alone = inversion([lane], net)
        for batch in batches:
            alone.step([0], [batch[lane : lane + 1] if own else batch])
        for other in (together, in_two):
            torch.testing.assert_close(state(other)[lane], state(alone)[0], rtol=1e-3, atol=1e-3)
            assert other.controllers[lane].cost == alone.controllers[0].cost
            assert other.found(lane).size == pytest.approx(alone.found(0).size, rel=1e-3)


class Full(nn.Module):
    """A network on a device with room for so many images."""

    def __init__(self, net: nn.Module, room: int) -> None:
        super().__init__()
        self.net, self.room, self.largest = net, room, 0

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.room:
            raise torch.OutOfMemoryError("no room")
        self.largest = max(self.largest, len(images))
        logits: Tensor = self.net(images)
        return logits


def test_where_memory_does_not_allow_it_fewer_lanes_go_together() -> None:
    full = Full(network(), room=9)
    _, tight = inversion([0, 1, 2], full)
    _, roomy = inversion([0, 1, 2])
    for made in (tight, roomy):
        made.step(range(3), [torch.arange(4)[None]] * 3)
    assert full.largest == 4
    for one, other in zip(state(tight), state(roomy), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    with pytest.raises(torch.OutOfMemoryError):
        inversion([0], Full(network(), room=3))[1].step([0], [torch.arange(4)[None]])


def test_lanes_that_have_ended_are_left_alone_and_images_are_counted() -> None:
    access, made = inversion([0, 1, 2])
    before = state(made)
    made.step([0, 2], [torch.arange(5)[None]] * 2)
    assert access.images_processed == 2 * 2 * 5
    after = state(made)
    assert [torch.equal(one, other) for one, other in zip(before, after, strict=True)] == [
        False,
        True,
        False,
    ]
    made.controllers[1].stopped = True
    assert made.running == [0, 2]


def test_the_smallest_trigger_that_works_is_kept() -> None:
    _, made = inversion([1], rule=Rule(bound=0.0, stop=None, cost=1.0, start="cost"))
    smallest = math.inf
    for _ in range(10):
        made.step([0], [torch.arange(10)[None]])
        smallest = min(smallest, float(squash(made.free[0][0].detach()).sum()))
    assert made.found(0).reached
    assert made.found(0).size == pytest.approx(smallest)
    assert made.found(0).pattern.shape == (1, 8, 8)


def test_a_lane_that_never_works_gives_its_last_trigger() -> None:
    _, made = inversion([1], rule=Rule(bound=1.1))
    made.step([0], [torch.arange(10)[None]])
    assert not made.found(0).reached
    torch.testing.assert_close(made.found(0).mask, squash(made.free[0][0].detach()))


def test_the_model_and_torch_are_left_as_found() -> None:
    net = network().train()
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    _, made = inversion([0, 1], net)
    made.step([0, 1], [torch.arange(9)[None]])
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(part.training for part in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())


@given(st.integers(1, 20), st.integers(1, 7), st.integers(0, 9))
def test_streams_go_round_and_round(count: int, batch: int, seed: int) -> None:
    batch = min(batch, count)
    places = torch.arange(100, 100 + count)
    stream = Endless(places, batch, torch.Generator().manual_seed(seed))
    for _ in range(3):
        seen = torch.cat([next(stream) for _ in range(count // batch)])
        assert len(set(seen.tolist())) == len(seen) == count // batch * batch
        assert set(seen.tolist()) <= set(places.tolist())
