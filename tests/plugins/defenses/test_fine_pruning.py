from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness import Incompatible
from harness.components import Anatomy, Task
from harness.learn.images import to_float
from plugins.defenses.fine_pruning import (
    FinePruning,
    affordable,
    dormant_first,
    responses,
    silenced,
)
from tests.kit.learned import Tiny, access_to, pictures, trained

pytestmark = pytest.mark.usefixtures("one_thread")


def settings(**fields: Any) -> FinePruning:
    return FinePruning(**{"epochs": 2, "batch": 16, **fields})


def cut_columns(model: nn.Module) -> list[int]:
    return (model.get_submodule("head").weight == 0).all(0).nonzero().flatten().tolist()


def test_the_order_restated_channel_by_channel() -> None:
    net, data = trained(epochs=2), pictures()
    access = access_to(net)
    found = dormant_first(responses(access, access.victim(), "pool", data))
    with torch.no_grad():
        maps = nn.Sequential(net.get_submodule("stem"), net.get_submodule("stage1"))(
            to_float(data.images)
        ).numpy()
    means = [sum(maps[image, channel].mean() for image in range(30)) / 30 for channel in range(8)]
    assert found.tolist() == np.argsort(means, kind="stable").tolist()


def test_the_bound_restated_cut_by_cut() -> None:
    net, data = trained(), pictures(60)
    access = access_to(net)
    model = access.victim()
    channels = responses(access, model, "pool", data)
    order = dormant_first(channels)
    head = model.get_submodule("head")
    rights = []
    for number in range(8):
        weight = head.weight.detach().clone()
        weight[:, order[:number]] = 0
        logits = channels.flatten(1) @ weight.T + head.bias
        rights.append(float((logits.argmax(1) == data.labels).float().mean()))
    assert rights[0] > 0.9
    for drop in (0.0, 0.1, 0.5, 1.0):
        expected = next(
            (number - 1 for number in range(1, 8) if rights[number] < (1 - drop) * rights[0]), 7
        )
        assert affordable(access, head, channels, data, order, drop) == expected


def test_cut_channels_stay_cut_while_the_rest_learns() -> None:
    net = trained(epochs=2)
    order = dormant_first(responses(access_to(net), net, "pool", pictures()))
    result = settings(prune="count", count=3).defend(access_to(net))
    assert result.record == {"pruned": 3.0, "neurons": 8.0}
    assert cut_columns(result.model) == sorted(order[:3].tolist())
    assert not torch.equal(
        result.model.get_submodule("stem.0").weight, net.get_submodule("stem.0").weight
    )
    assert not any(module._forward_hooks for module in result.model.modules())


def test_tuning_sees_the_network_that_is_returned() -> None:
    """Zeros in the classifier's columns are the same function as the mask in its tuning."""
    net, images = trained(epochs=2), to_float(pictures().images)
    keep = torch.ones(8)
    keep[[1, 6]] = 0
    with silenced(net, "pool", keep), torch.no_grad():
        masked = net(images)
    with torch.no_grad():
        net.get_submodule("head").weight[:, [1, 6]] = 0
        torch.testing.assert_close(net(images), masked)


def test_without_pruning_it_is_fine_tuning() -> None:
    from plugins.defenses.ft import FT

    net = trained(epochs=2)
    pruned = settings(prune="count", count=0).defend(access_to(net))
    tuned = FT(epochs=2, batch=16).defend(access_to(net))
    for mine, theirs in zip(pruned.model.parameters(), tuned.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_held_out_images_are_not_tuned_on() -> None:
    access = access_to(trained(epochs=2), data=pictures(40))
    settings(holdout=0.25).defend(access)
    assert access.images_processed == 2 * 30
    access = access_to(trained(epochs=2), data=pictures(40))
    settings(prune="share", share=0.5).defend(access)
    assert access.images_processed == 2 * 40


def test_an_accuracy_that_must_not_fall_leaves_what_is_needed() -> None:
    net = trained()
    careful = settings(drop=0.0, holdout=0.5, epochs=0).defend(access_to(net, data=pictures(60)))
    careless = settings(drop=1.0, holdout=0.5, epochs=0).defend(access_to(net, data=pictures(60)))
    assert careful.record["pruned"] < careless.record["pruned"] == 7.0


class Flat(Tiny):
    """Its classifier takes every place of every channel."""

    def build(self, task: Task) -> nn.Module:
        body = nn.Sequential(nn.Conv2d(task.channels, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4))
        net = nn.Sequential()
        for name, part in (
            ("body", body),
            ("flatten", nn.Flatten()),
            ("head", nn.Linear(16, task.classes)),
        ):
            net.add_module(name, part)
        return net

    def anatomy(self, module: nn.Module) -> Anatomy:
        return Anatomy(stem="body", stages=("body",), features="body", head="head")


def test_a_channel_of_several_places_loses_all_its_inputs() -> None:
    net = Flat().build(Tiny.task)
    result = settings(prune="count", count=1).defend(access_to(net, model=Flat()))
    cut = cut_columns(result.model)
    assert len(cut) == 4
    assert cut == list(range(cut[0], cut[0] + 4))
    assert cut[0] % 4 == 0


def test_one_channel_is_always_left() -> None:
    with pytest.raises(Incompatible, match="one must be left"):
        settings(prune="count", count=8).defend(access_to(trained(epochs=1)))
    assert (
        settings(prune="share", share=0.99).defend(access_to(trained(epochs=1))).record["pruned"]
        == 7.0
    )
    with pytest.raises(Incompatible, match="leaves none"):
        settings().defend(access_to(trained(epochs=1), data=pictures(1)))


def test_presets_are_valid_and_every_parameter_has_a_meaning() -> None:
    for preset in FinePruning.presets.values():
        FinePruning.model_validate_json(json.dumps(preset))
    assert all(field.description for field in FinePruning.model_fields.values())
