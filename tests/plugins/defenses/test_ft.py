from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from harness import Context, Task
from harness.access.granted import Access
from harness.learn.recipes import Recipe
from plugins.defenses.abl import ABL
from plugins.defenses.abs import ABS
from plugins.defenses.anp import ANP
from plugins.defenses.bcu import BCU
from plugins.defenses.dp_sgd import DPSGD
from plugins.defenses.fine_pruning import FinePruning
from plugins.defenses.ft import FT
from plugins.defenses.mcr import MCR
from plugins.defenses.nad import NAD
from plugins.defenses.nc import NC
from plugins.defenses.trap_replace import TrapReplace
from plugins.models.small_cnn import SmallCNN
from plugins.parts.fine_tuning import Augmented
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
    """With crop and flip of their own, whatever the victim's training has."""
    seen: list[Recipe] = []
    access = access_to(victim(), pictures(60), needs=CLEAN)
    monkeypatch.setattr(access, "fit", lambda model, data, recipe: seen.append(recipe))
    FT(**FT.presets[preset]).defend(access)
    (recipe,) = seen
    assert (recipe.crop, recipe.flip, recipe.cutout) == (1, True, cutout)
    assert recipe.epochs == FT(**FT.presets[preset]).epochs


AUGMENTATION = (
    "crop",
    "crop_probability",
    "flip",
    "rotation",
    "rotation_probability",
    "cutout",
    "fill",
)


@pytest.mark.parametrize("side", [16, 28, 32, 64])
@pytest.mark.parametrize("mirrors", [True, False])
def test_the_augmentation_is_that_of_the_papers(side: int, mirrors: bool) -> None:
    """Crop by an eighth and flip alone; signs and digits are not flipped; what is set is taken."""
    task = Task("any", 10, side, side + 4, 3, 100, mirrors)
    own = {"crop": 1, "crop_probability": 0.8, "flip": not mirrors, "rotation": 5.0}
    own |= {"rotation_probability": 0.5, "cutout": 3, "fill": (0.1, 0.2, 0.3)}
    for defense in (FT, ANP, NAD, ABL, BCU, MCR, FinePruning, TrapReplace, DPSGD, NC, ABS):
        assert issubclass(defense, Augmented)
        plain = defense(cutout=0).augmentation(task)
        assert list(plain.values()) == [side // 8, 1.0, mirrors, 0.0, 1.0, 0, (0.0,)]
        assert tuple(plain) == AUGMENTATION
        assert defense(**own).augmentation(task) == own


@pytest.mark.parametrize(
    "defense", [FT(epochs=1), ANP(iterations=1), TrapReplace(), ABL(isolate=0.1)]
)
def test_nothing_of_the_victim_s_augmentation_reaches_a_defense(
    defense: Augmented, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the rotation of WaNet's and IAB's recipes, nor its probabilities, nor its colour."""
    seen: list[Recipe] = []

    def fit(self: Any, model: Any, data: Any, recipe: Recipe, **hooks: Any) -> None:
        seen.append(recipe)

    net = victim()  # which trains
    monkeypatch.setattr("harness.access.granted.Workbench.fit", fit)
    wanet = Recipe(epochs=1, batch=16, crop=3, crop_probability=0.8, rotation=10.0, fill=(0.4,))
    wanet = wanet.replace(rotation_probability=0.5, cutout=5)
    needs = frozenset({"victim", "clean-labelled", "training-set"})
    access = access_to(net, pictures(60), SmallCNN(width=8), needs, training=pictures(60))
    access._context = replace(access._context, recipe=wanet)
    defense.defend(access)
    assert seen
    for recipe in seen:
        assert (recipe.rotation, recipe.crop_probability, recipe.fill) == (0.0, 1.0, (0.0,))
        assert recipe.crop in (0, 1)
        assert recipe.cutout == defense.cutout or recipe.crop == 0


def test_a_colour_of_three_channels_is_refused_for_grey_images() -> None:
    grey = Context(Task("digits", 10, 28, 28, 1, 100))
    complaint = FT(fill=(0.1, 0.2, 0.3)).compatible(grey)
    assert complaint is not None
    assert "fill has 3 numbers" in complaint
    assert FT().compatible(grey) is None


def test_settings_of_an_augmentation_that_there_is_not_are_named() -> None:
    assert set(FT(crop=0).unused()) >= {"crop_probability", "rotation_probability", "fill"}
    assert "fill" not in FT().unused()
    assert "rotation_probability" not in FT(rotation=5.0).unused()
