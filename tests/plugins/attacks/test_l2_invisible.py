from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.learn.evaluation import predict
from plugins.attacks.l2_invisible import L2Invisible
from tests.kit.learned import attacked, clean_network, crafting, pictures

pytestmark = pytest.mark.usefixtures("one_thread")


@given(st.integers(0, 2**31), st.floats(0.1, 5), st.floats(0.01, 3))
def test_the_ball_restated(seed: int, norm: float, scale: float) -> None:
    light = scale * torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(seed))
    found = L2Invisible(norm=norm).bounded(light)
    bright = light.clamp(min=0)
    length = float((bright.double() ** 2).sum() ** 0.5)
    torch.testing.assert_close(found, bright * min(1.0, norm / length), rtol=1e-5, atol=1e-7)


def test_is_as_large_as_allowed_and_excites_what_speaks_for_the_target() -> None:
    attack = L2Invisible(norm=0.8, steps=20, pictures=32, target=2)
    access = crafting(attack, pictures(60), {"benign": clean_network()})
    trigger = attack.trigger(access.task)
    attack.craft(access, trigger)
    light = trigger.get_buffer("light")
    assert float(light.norm()) == pytest.approx(0.8, rel=1e-3)
    assert access.record["norm"] == pytest.approx(0.8, rel=1e-3)
    assert float(light.min()) >= 0
    assert access.record["activation_after"] > 1.2 * access.record["activation_before"]


def test_a_clean_network_leans_to_the_target() -> None:
    """The neurons are those of the target label, so that the trigger half works before anything is
    poisoned.
    """
    attack = L2Invisible(norm=2.0, steps=30, pictures=32, target=2)
    access = crafting(attack, pictures(60), {"benign": clean_network()})
    trigger = attack.trigger(access.task)
    attack.craft(access, trigger)
    test = pictures(150)
    found, _ = predict(clean_network(), test.images, trigger=trigger)
    assert float((found == 2).float().mean()) > 0.6


@pytest.mark.parametrize(
    "given", [{}, {"label_map": "all-to-all", "poison_rate": 0.3, "norm": 2.0}]
)
def test_a_victim_is_made(given: dict[str, Any]) -> None:
    attack = L2Invisible.model_validate_json(
        json.dumps({"poison_rate": 0.2, "norm": 1.5, "steps": 20, **given})
    )
    accuracy, success = attacked(attack, epochs=20, parts={"benign": clean_network()})
    assert accuracy > 0.85
    assert success > 0.8


@pytest.mark.parametrize("given", [{"norm": 0.0}, {"neurons": 0}, {"step": 0.0}, {"pictures": 0}])
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        L2Invisible(**given)
