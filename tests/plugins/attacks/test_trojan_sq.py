from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from harness import Context, Task
from plugins.attacks.trojan_sq import TrojanSquare
from tests.kit.learned import attacked, clean_network, crafting, pictures
from tests.kit.oracles import oracle

TASK = Task("any", classes=10, height=32, width=32, channels=3, train_count=100)

pytestmark = pytest.mark.usefixtures("one_thread")


def crafted(**given: Any) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    attack = TrojanSquare(steps=10, pictures=16, **given)
    access = crafting(attack, pictures(60, channels=3), {"benign": clean_network(3)})
    trigger = attack.trigger(access.task)
    attack.craft(access, trigger)
    return trigger.get_buffer("weight"), trigger.get_buffer("light"), access.record


@pytest.mark.parametrize(("size", "margin"), [(3, 4), (2, 0), (1, 7), (8, 0)])
def test_colours_are_in_the_square_only(size: int, margin: int) -> None:
    weight, light, record = crafted(size=size, margin=margin)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    for row in range(size):
        for column in range(size):
            inside[7 - margin - row, 7 - margin - column] = True
    assert not light[:, ~inside].any()
    assert bool(light[:, inside].any())
    assert not weight.any(), "it is added"
    assert record["activation_after"] > 0


@pytest.mark.oracle
def test_the_published_square_stands_in_the_same_place() -> None:
    recorded = oracle("attacks/additive_triggers")
    for name, attack in (("3x3", TrojanSquare()), ("8x8", TrojanSquare(size=9, margin=2))):
        rows, columns = recorded[f"trigger_trojan_{name}"].max(2).nonzero()
        bottom = 32 - attack.margin
        for places in (rows, columns):
            assert (places.min(), places.max()) == (bottom - attack.size, bottom - 1)


def test_a_victim_is_made() -> None:
    attack = TrojanSquare.model_validate_json(
        json.dumps({"poison_rate": 0.2, "margin": 1, "steps": 10, "pictures": 16})
    )
    accuracy, success = attacked(attack, epochs=20, channels=3, parts={"benign": clean_network(3)})
    assert accuracy > 0.85
    assert success > 0.8


@pytest.mark.parametrize("given", [{"size": 0}, {"margin": -1}, {"neurons": 0}])
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrojanSquare(**given)


def test_says_what_cannot_work() -> None:
    assert "do not fit into 32 pixels" in str(TrojanSquare(size=30).compatible(Context(TASK)))
    assert "no class" in str(TrojanSquare(target=10).compatible(Context(TASK)))
