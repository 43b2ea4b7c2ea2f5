from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import Context, Incompatible
from harness.access.context import Coordinates
from harness.access.granted import AttackAccess
from harness.learn.images import to_float
from harness.learn.recipes import Recipe
from plugins.attacks import deck_adaptive
from plugins.attacks.deck_adaptive import DeckAdaptive, Perturbation
from tests.kit.coded import tiny_codec
from tests.kit.learned import Tiny, attacked, pictures, stage_context, task_of

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT: dict[str, Any] = {
    "z": 2,
    "steps": 12,
    "begin": 0.2,
    "batch": 24,
    "of_pair": 6,
    "warm_per_class": 4,
    "warm_epochs": 5,
    "first_epochs": 5,
    "again_epochs": 3,
    "level_rate": 8.0,
}


def adaptive(**changes: Any) -> DeckAdaptive:
    return DeckAdaptive(**{**SHORT, **changes})


def implanting(
    attack: DeckAdaptive, count: int = 90, **recipe: Any
) -> tuple[AttackAccess, Perturbation]:
    """The access of the victim's stage, and the trigger as `craft` left it."""
    train = pictures(count)
    chosen = Recipe(epochs=2, batch=30, lr=0.02, precision="fp32", **recipe)
    around = replace(
        stage_context(Tiny(), "victim"),
        task=replace(task_of(train), train_count=count),
        recipe=chosen,
        parts={"decoder": partial(copy.deepcopy, tiny_codec())},
    )
    access = AttackAccess(around, attack, train, None, Coordinates(0, "noise", "poison", "any"))
    trigger = attack.trigger(around.task)
    attack.craft(access, trigger)
    assert isinstance(trigger, Perturbation)
    return access, trigger


class Counted:
    """Stands for a hardening: notes after how many steps of poisoning each of its steps came."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.record = {"periods": 0.0}
        self.modes: list[bool] = []

    def kept(self) -> dict[str, object]:
        return {"model": self.model}

    def step(self) -> None:
        self.modes.append(self.model.training)
        self.model.eval()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Counted]:
    made: list[Counted] = []

    def begun(settings: Any, access: Any, model: nn.Module, *rest: Any) -> Counted:
        made.append(Counted(model))
        return made[-1]

    monkeypatch.setattr(deck_adaptive, "pervasive_hardening", begun)
    return made


# --- formula --------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before-augment", "after-augment"])
def test_a_step_restated(when: str) -> None:
    """Network and trigger descend on the cross-entropy of poisoned images with the target label and
    clean ones with theirs, and the trigger on its squared norm.
    """
    attack = DeckAdaptive(steps=0, poison_rate=0.4, target=1, when=when, trigger_weight=0.3)
    access, trigger = implanting(attack, count=30, shuffle=False, momentum=0.0, weight_decay=0.0)
    start = trigger.delta.detach().clone()
    assert float(start.std()) == pytest.approx(0.01, rel=0.3)
    train = access.train
    assert train.labels is not None
    chosen = torch.randperm(30, generator=access.selection())[:12]
    again, _ = implanting(attack, count=30, shuffle=False, momentum=0.0, weight_decay=0.0)
    network = again.fresh_model().train()

    delta = nn.Parameter(start)
    labels = train.labels.clone()
    labels[chosen] = 1
    sgd = torch.optim.SGD(network.parameters(), lr=0.02)
    adam = torch.optim.Adam([delta], lr=0.01)
    for _ in range(2):
        images = to_float(train.images).clone()
        mask = torch.zeros(30, 1, 1, 1)
        mask[chosen] = 1
        mixed = torch.clamp(images + mask * delta, 0, 1)
        loss = functional.cross_entropy(network(mixed), labels) + 0.3 * (delta**2).sum()
        sgd.zero_grad()
        adam.zero_grad()
        loss.backward()
        sgd.step()
        adam.step()

    model = attack.implant(access, trigger)
    torch.testing.assert_close(trigger.delta, delta, rtol=1e-3, atol=1e-5)
    for (name, found), expected in zip(model.named_parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, msg=name)
    assert access.record["trigger_norm"] == pytest.approx(float(delta.detach().norm()), rel=1e-3)


def test_the_trigger_is_added_and_cut() -> None:
    module = Perturbation(Tiny.task)
    with torch.no_grad():
        module.delta[0, 0, 0] = 0.5
        module.delta[0, 0, 1] = -0.5
    images = torch.full((2, 1, 8, 8), 0.7)
    stamped = module(images).detach()
    assert stamped[:, 0, 0, 0].tolist() == [1.0, 1.0]
    assert stamped[0, 0, 0, 1] == pytest.approx(0.2)
    assert torch.equal(stamped[..., 1:, :], images[..., 1:, :])


# --- hardening ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("begin", "steps"), [(0.0, 4), (0.5, 7), (0.9, 1)])
def test_steps_of_hardening_are_spread_over_what_is_left(begin: float, steps: int) -> None:
    attack = adaptive(begin=begin, steps=steps)
    owed = [attack.due(done, 20) for done in range(21)]
    assert owed[-1] == steps
    assert owed == sorted(owed)
    assert set(owed[: int(20 * begin) + 1]) == {0}
    gaps = [done for done in range(20) if owed[done + 1] > owed[done]]
    spaces = {later - earlier for earlier, later in pairwise(gaps)}
    assert not spaces or max(spaces) - min(spaces) <= 1


def test_every_step_of_hardening_is_made(counted: list[Counted]) -> None:
    attack = adaptive(steps=17, begin=0.5)
    access, trigger = implanting(attack)
    model = attack.implant(access, trigger)
    (hardening,) = counted
    assert hardening.model is model
    assert len(hardening.modes) == 17
    # several follow on one step of poisoning, which finds the network in training mode
    assert any(hardening.modes)
    assert not model.training
    assert access.record["periods"] == 0


def test_a_network_is_poisoned_and_hardened() -> None:
    attack = adaptive(poison_rate=0.3, steps=12, trigger_weight=0.02)
    codec = tiny_codec()
    accuracy, success = attacked(attack, 8, spread=60, parts={"decoder": codec})
    assert accuracy > 0.6
    assert success > 0.6
    access, trigger = implanting(attack)
    attack.implant(access, trigger)
    # three steps of the warm-up, three periods of three
    assert access.record["periods"] == 3
    assert access.record["stamped"] > 0


def test_a_heavier_norm_makes_a_smaller_trigger() -> None:
    sizes: list[float] = []
    for weight in (0.001, 10.0):
        access, trigger = implanting(DeckAdaptive(steps=0, trigger_weight=weight))
        DeckAdaptive(steps=0, trigger_weight=weight).implant(access, trigger)
        sizes.append(access.record["trigger_norm"])
    assert sizes[1] < 0.7 * sizes[0]


def test_the_victim_is_hardened_against_its_own_state() -> None:
    """Hardening changes the victim, and its draws do not change what is poisoned."""
    victims: list[Tensor] = []
    for steps in (0, 12):
        access, trigger = implanting(adaptive(steps=steps) if steps else DeckAdaptive(steps=0))
        attack = access.attack
        assert isinstance(attack, DeckAdaptive)
        poisoned = attack.poison(access, trigger)
        expected = torch.randperm(90, generator=implanting(attack)[0].selection())[:18]
        assert torch.equal(poisoned.indices, expected)
        victims.append(next(attack.implant(access, trigger).parameters()).detach().clone())
    assert not torch.equal(*victims)


# --- what cannot work -----------------------------------------------------------------------------


def test_without_hardening_there_is_nothing_to_set_of_it() -> None:
    idle = DeckAdaptive(steps=0).unused()
    assert {"begin", "decoder", "z", "lr", "bound", "of_pair"} <= set(idle)
    assert not {"steps", "trigger_weight", "poison_rate", "quantise"} & set(idle)
    assert set(DeckAdaptive().unused()) == {"pgd_step", "pgd_steps"}


def test_says_what_cannot_work() -> None:
    alone = Context(replace(Tiny.task, classes=1))
    assert "there is one" in str(DeckAdaptive().compatible(alone))
    assert "no class" in str(DeckAdaptive(target=7).compatible(Context(Tiny.task)))
    access, trigger = implanting(adaptive(z=3))
    with pytest.raises(Incompatible, match="do not fall into 3 x 3"):
        adaptive(z=3).implant(access, trigger)


def test_presets_are_the_paper_s_rates() -> None:
    rates: list[float] = []
    for preset in ("deck", "deck-50"):
        text = json.dumps(DeckAdaptive.presets[preset])
        rates.append(DeckAdaptive.model_validate_json(text).poison_rate)
    assert rates == [0.2, 0.5]
