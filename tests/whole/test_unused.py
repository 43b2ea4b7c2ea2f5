"""A parameter that does nothing beside the others is refused, whatever its value."""

from __future__ import annotations

from typing import Any

import pytest

from harness import Component, Defense
from harness.introspect.parameters import resolve
from harness.introspect.problems import ParameterError
from plugins.attacks.badnets import BadNets
from plugins.attacks.dfst import DFST, OF_DETOX
from plugins.attacks.l0_invisible import L0Invisible
from plugins.attacks.l2_invisible import L2Invisible
from plugins.attacks.lba import LBA
from plugins.attacks.lc import LC
from plugins.attacks.sig import SIG
from plugins.attacks.smooth import Smooth
from plugins.attacks.trojan_sq import TrojanSquare
from plugins.attacks.wanet import WaNet
from plugins.defenses.abl import ABL
from plugins.defenses.abs import ABS
from plugins.defenses.anp import ANP
from plugins.defenses.bcu import BCU
from plugins.defenses.deck import DECK
from plugins.defenses.dp_sgd import DPSGD
from plugins.defenses.fine_pruning import FinePruning
from plugins.defenses.ft import FT
from plugins.defenses.k_arm import KArm
from plugins.defenses.mcr import MCR
from plugins.defenses.moth import MOTH
from plugins.defenses.nad import NAD
from plugins.defenses.nc import NC
from plugins.defenses.trap_replace import TrapReplace

IDLE: list[tuple[type[Component], dict[str, Any], dict[str, Any]]] = [
    (NAD, {}, {"lr": 0.1, "horizon": 10.0}),
    (ABL, {}, {"lr": 0.1}),
    (ABL, {"schedule": "constant", "rates": []}, {"horizon": 10.0}),
    (FT, {"schedule": "piecewise", "rates": [[0, 0.1]]}, {"lr": 0.01}),
    (MCR, {"rates": [[0, 0.1]]}, {"lr": 0.01, "horizon": 10.0}),
    (MCR, {}, {"candidates": [0.5], "holdout": 0.2}),
    (MCR, {"crop": 0}, {"crop_probability": 0.5}),
    (MOTH, {}, {"pgd_step": 1.0, "pgd_steps": 3}),
    (DECK, {}, {"pgd_step": 1.0, "pgd_steps": 3}),
    (DECK, {"start": "drawn"}, {"spread": 0.01}),
    (FinePruning, {}, {"count": 3, "share": 0.5}),
    (FinePruning, {"prune": "share"}, {"drop": 0.2, "holdout": 0.2, "count": 3}),
    (ANP, {}, {"number": 3, "drop": 0.2, "holdout": 0.2}),
    (ANP, {"prune": "number"}, {"threshold": 0.3}),
    (BCU, {}, {"uniform": 0.3}),
    (BCU, {"init": "uniform"}, {"stem": 0.2, "stages": [0.1], "head": 0.3}),
    (BCU, {"labels": "hard"}, {"temperature": 2.0}),
    (DPSGD, {"epsilon": 8.0}, {"noise": 2.0}),
    (TrapReplace, {"replace": False}, {"head_epochs": 1, "cutmix": 0.5, "dropout": 0.1}),
    (NC, {"unlearn": "never"}, {"epochs": 3, "lr": 0.1, "stamped": 0.3, "append": True}),
    (ABS, {"unlearn": "never"}, {"epochs": 3}),
    (BadNets, {"label_map": "all-to-all"}, {"target": 3}),
    (BadNets, {"label_map": "all-to-all", "eligible": "non-target"}, {"target": 3}),
    (BadNets, {"label_map": [1, 0]}, {"target": 1}),
    (BadNets, {"label_map": [1, 0], "eligible": "non-target"}, {"target": 1}),
    (TrojanSquare, {"label_map": "all-to-all"}, {"target": 3}),
    (WaNet, {"label_map": "all-to-all"}, {"target": 3}),
    (WaNet, {"label_map": [1, 0]}, {"target": 1}),
    (SIG, {"form": "wrapped"}, {"f": 3.0}),
    (LC, {"steps": 0}, {"eps": 8.0, "step": 1.0}),
    (LBA, {"control": "data"}, {"epochs": 3, "lr": 0.1, "weight": 0.1}),
    (DFST, {"detox": 0}, {"layers": 2, "detox_epochs": 3}),
]
"""A class, settings, and parameters that do nothing beside them."""

ACTING: list[tuple[type[Component], dict[str, Any]]] = [
    (FT, {"lr": 0.1, "horizon": 10.0}),
    (NAD, {"schedule": "cosine", "rates": [], "lr": 0.1, "horizon": 10.0}),
    (NAD, {"betas": [500.0, 1000.0, 1000.0]}),
    (MCR, {"lr": 0.1, "horizon": 10.0, "t": "best", "holdout": 0.2}),
    (ANP, {"prune": "accuracy", "drop": 0.2, "holdout": 0.2}),
    (NC, {"epochs": 3, "lr": 0.1}),
    (MOTH, {"pgd_eps": 8.0, "pgd_step": 1.0, "pgd_steps": 3}),
    (DPSGD, {"noise": 2.0}),
    (BadNets, {"label_map": "all-to-all", "eligible": "target", "target": 3}),
    (L0Invisible, {"label_map": "all-to-all", "target": 3}),
    (L2Invisible, {"label_map": [1, 0], "target": 1}),
    (Smooth, {"label_map": [1, 0], "target": 1}),
    (BadNets, {"target": 3}),
    (SIG, {"f": 3.0}),
]


def taken(component: type[Component], params: dict[str, Any], preset: str | None = None) -> None:
    """Read parameters as a grid gives them. Raises ParameterError."""
    kind = "defense" if issubclass(component, Defense) else "attack"
    target = f"{component.__module__}:{component.__name__}"
    resolve(kind, target, None, None, preset, params, ".", "signs")


@pytest.mark.parametrize(("component", "settings", "idle"), IDLE)
def test_what_does_nothing_is_refused(
    component: type[Component], settings: dict[str, Any], idle: dict[str, Any]
) -> None:
    taken(component, settings)
    for name, value in idle.items():
        with pytest.raises(ParameterError, match="does nothing here") as caught:
            taken(component, {**settings, name: value})
        assert [path for path, _, _ in caught.value.listed] == [(name,)]


@pytest.mark.parametrize(("component", "settings"), ACTING)
def test_what_does_something_is_not(component: type[Component], settings: dict[str, Any]) -> None:
    taken(component, settings)


@pytest.mark.parametrize("component", sorted({row[0] for row in IDLE}, key=str))
def test_what_a_preset_says_is_never_refused_and_names_parameters(
    component: type[Component],
) -> None:
    for preset in component.presets:
        taken(component, {}, preset)
        settings = component.model_validate({**component.presets[preset]}, strict=False)
        assert settings.unused().keys() <= component.model_fields.keys()


def test_the_settings_of_detoxification_are_parameters() -> None:
    assert set(OF_DETOX) <= DFST.model_fields.keys()


def test_a_verdict_alone_is_no_model() -> None:
    assert not KArm().gives_model
    assert NC().gives_model
    assert not NC(unlearn="never").gives_model
    assert FT().gives_model


def test_a_target_that_is_its_only_source_is_attacked_by_nobody() -> None:
    with pytest.raises(ParameterError, match="nothing is attacked"):
        taken(BadNets, {"label_map": "source-specific", "sources": [2], "target": 2})
    taken(BadNets, {"label_map": "source-specific", "sources": [2, 3], "target": 2})
