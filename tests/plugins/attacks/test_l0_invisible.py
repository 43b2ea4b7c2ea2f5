from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from harness import Context, Task
from plugins.attacks.l0_invisible import L0Invisible, strongest
from plugins.parts.neurons import Neurons
from tests.kit.learned import attacked, clean_network, crafting, pictures

TASK = Task("any", classes=10, height=32, width=32, channels=3, train_count=100)

pytestmark = pytest.mark.usefixtures("one_thread")


def crafted(**given: Any) -> tuple[Tensor, Tensor, dict[str, float]]:
    attack = L0Invisible.model_validate_json(json.dumps({"steps": 10, "pictures": 16, **given}))
    access = crafting(attack, pictures(60, channels=3), {"benign": clean_network(3)})
    trigger = attack.trigger(access.task)
    attack.craft(access, trigger)
    return trigger.get_buffer("weight"), trigger.get_buffer("light"), access.record


def test_the_last_pixels_of_the_last_row_in_full_colours() -> None:
    weight, light, _ = crafted(pixels=5)
    expected = torch.zeros(1, 8, 8)
    expected[:, 7, 3:] = 1
    assert torch.equal(weight, expected)
    assert set(light[:, 7, 3:].flatten().tolist()) <= {0.0, 1.0}
    assert not light[:, :7].any()


def test_salient_pixels_excite_more_than_those_of_the_row() -> None:
    row, salient = crafted(pixels=4), crafted(pixels=4, place="salient")
    assert int(salient[0].sum()) == 4
    assert not salient[1][:, salient[0][0] == 0].any()
    assert salient[2]["activation_after"] > row[2]["activation_after"]


def test_the_strongest_pixels_restated() -> None:
    """In a linear network the slope of a pixel is its weight times the change by replacing it."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(1, 3, 4, 4, generator=generator) - 0.5

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(1, 1)

        def forward(self, images: Tensor) -> Tensor:
            scores: Tensor = self.head((images * weights).sum((1, 2, 3))[:, None])
            return scores

    network = Linear()
    images, colours = (
        torch.rand(6, 3, 4, 4, generator=generator),
        torch.rand(3, 4, 4, generator=generator),
    )
    mask = torch.ones(1, 4, 4)
    mask[:, 0] = 0
    found = strongest(Neurons(network, network.head, torch.tensor([0])), images, colours, mask, 5)
    gain = (weights * (colours - images)).sum(1).mean(0)
    gain[0] = -torch.inf
    expected = torch.zeros(16).index_fill(0, gain.flatten().topk(5).indices, 1).view(1, 4, 4)
    assert torch.equal(found, expected)


def test_a_mask_of_one_s_own(tmp_path: Path) -> None:
    levels = np.zeros((8, 8, 3), np.uint8)
    levels[2, 3], levels[4, 5, 1] = 255, 1
    np.save(tmp_path / "mask.npy", levels)
    weight, light, _ = crafted(mask=str(tmp_path / "mask.npy"))
    assert weight.nonzero().tolist() == [[0, 2, 3], [0, 4, 5]]
    assert not light[:, weight[0] == 0].any()


@pytest.mark.parametrize("given", [{}, {"place": "salient", "pixels": 4}])
def test_a_victim_is_made(given: dict[str, Any]) -> None:
    attack = L0Invisible.model_validate_json(
        json.dumps({"poison_rate": 0.2, "pixels": 6, "steps": 10, "pictures": 16, **given})
    )
    accuracy, success = attacked(attack, epochs=20, channels=3, parts={"benign": clean_network(3)})
    assert accuracy > 0.85
    assert success > 0.8


@pytest.mark.parametrize("given", [{"pixels": 0}, {"place": "column"}, {"steps": -1}])
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        L0Invisible(**given)


@pytest.mark.parametrize("given", ["picture", "mask"])
def test_a_place_is_looked_for_or_given(given: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="looks for pixels"):
        L0Invisible.model_validate_json(
            json.dumps({"place": "salient", given: str(tmp_path / "any.npy")})
        )


def test_says_what_cannot_work() -> None:
    assert "33 pixels do not fit: there are 32" in str(
        L0Invisible(pixels=33).compatible(Context(TASK))
    )
    assert L0Invisible(pixels=33, place="salient").compatible(Context(TASK)) is None
    assert "no class" in str(L0Invisible(target=10).compatible(Context(TASK)))
