from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from harness.access.granted import Access
from harness.learn.recipes import Recipe
from plugins.defenses.ft import FT
from tests.kit.learned import CLEAN, access_to, pictures
from tests.kit.scanned import acc, victim

pytestmark = pytest.mark.usefixtures("one_thread")


def tuned(net: nn.Module, **settings: Any) -> tuple[nn.Module, Access]:
    access = access_to(net, pictures(60), needs=CLEAN)
    return FT(**{"epochs": 10, "batch": 16, "lr": 0.05, **settings}).defend(access), access


def test_all_layers_learn_and_batchnorm_moves_and_the_victim_stays() -> None:
    net = victim()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found, access = tuned(net)
    after = found.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert access.images_processed == 10 * 60
    assert acc(found) > 0.9


def test_a_network_without_batchnorm_is_tuned_too() -> None:
    net = victim(norms=False)
    found, _ = tuned(net)
    assert acc(found) > 0.9
    assert not any(
        torch.equal(one, other)
        for one, other in zip(net.parameters(), found.parameters(), strict=True)
    )


def test_no_epoch_changes_nothing() -> None:
    net = victim()
    found, access = tuned(net, epochs=0)
    assert all(
        torch.equal(one, other)
        for one, other in zip(net.parameters(), found.parameters(), strict=True)
    )
    assert access.images_processed == 0


@pytest.mark.parametrize(
    ("preset", "cutout"), [("bcu", 0), ("nad", 2), ("nad-paper", 8), ("nad-table", 0)]
)
def test_presets_reach_the_recipe(
    preset: str, cutout: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With crop and flip of the victim's training, which the grid sets."""
    seen: list[Recipe] = []
    access = access_to(victim(), pictures(60), needs=CLEAN)
    monkeypatch.setattr(access, "fit", lambda model, data, recipe: seen.append(recipe))
    FT(**FT.presets[preset]).defend(access)
    (recipe,) = seen
    grid = access.recipe
    assert (recipe.crop, recipe.flip, recipe.cutout) == (grid.crop, grid.flip, cutout)
    assert recipe.epochs == FT(**FT.presets[preset]).epochs
