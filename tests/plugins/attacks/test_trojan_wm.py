from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from plugins.attacks.trojan_wm import TrojanWatermark, watermark
from tests.kit.learned import attacked, clean_network, crafting, pictures
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 16), (20, 30)])
def test_the_mask_has_a_bright_sign_and_faint_writing(height: int, width: int) -> None:
    mask = watermark(height, width, 0.1)
    assert mask.shape == (1, height, width)
    assert 0.5 < float(mask.max()) <= 1
    bright = (mask[0] > 0.11).nonzero() + 0.5
    away = torch.hypot(bright[:, 0] / height - 0.68, bright[:, 1] / width - 0.66)
    assert float(away.max()) < 0.19 + math.sqrt(0.5) / min(height, width)
    assert not (watermark(height, width, 0.0)[0] > 0)[: height // 4].any(), (
        "without writing the sign alone is left"
    )


@pytest.mark.oracle
def test_it_is_as_large_and_bright_as_the_published_one() -> None:
    published = oracle("attacks/additive_triggers")["trigger_trojan_wm"].astype(int).max(2)
    ours = (watermark(32, 32, 0.1)[0] * 255).int().numpy()
    for level in (1, 100):
        assert 0.5 < (ours > level).sum() / (published > level).sum() < 2
    for axis in (0, 1):
        theirs, mine = (np.nonzero(drawn > 100)[axis] for drawn in (published, ours))
        assert abs(theirs.mean() - mine.mean()) < 2
        assert 0.5 < theirs.std() / mine.std() < 2


def test_colours_lie_under_the_mask_and_are_added() -> None:
    attack = TrojanWatermark(steps=10, pictures=16, writing=0.2)
    access = crafting(attack, pictures(60, channels=3), {"benign": clean_network(3)})
    trigger = attack.trigger(access.task)
    attack.craft(access, trigger)
    light, mask = trigger.get_buffer("light"), watermark(8, 8, 0.2)
    assert not trigger.get_buffer("weight").any()
    assert bool((light <= mask).all())
    assert access.record["activation_after"] > access.record["activation_before"]


def test_a_victim_is_made() -> None:
    attack = TrojanWatermark.model_validate_json(
        json.dumps({"poison_rate": 0.2, "steps": 10, "pictures": 16})
    )
    accuracy, success = attacked(attack, epochs=20, channels=3, parts={"benign": clean_network(3)})
    assert accuracy > 0.85
    assert success > 0.8


@pytest.mark.parametrize("given", [{"writing": 1.5}, {"neurons": 0}, {"steps": -1}])
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrojanWatermark(**given)
