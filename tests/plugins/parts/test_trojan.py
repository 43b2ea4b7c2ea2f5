from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness import Task
from plugins.parts.trojan import Trojan
from tests.kit.learned import clean_network, crafting, pictures


@pytest.mark.usefixtures("one_thread")
def test_a_trojan_trigger_lies_under_its_mask_and_excites() -> None:
    mask = torch.zeros(1, 8, 8)
    mask[:, 1:4, 2:6], mask[:, 5, 5] = 1, 0.5

    class Odd(Trojan):
        def mask(self, task: Task) -> Tensor:
            return mask

    attack = Odd(neurons=2, pictures=16, steps=20, step=0.2)
    access = crafting(attack, pictures(60))
    light = attack.find(access, clean_network())
    assert light.shape == (1, 8, 8)
    assert not light[mask == 0].any()
    assert bool((light <= mask).all())
    assert access.record["activation_after"] > 1.1 * access.record["activation_before"]
