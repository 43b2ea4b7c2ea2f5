"""Removal methods on networks without a backdoor, as DECK's tables of class distances use them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from harness import Task
from harness.access.granted import Access
from harness.components import Model
from harness.learn.images import ImageSet, to_float
from plugins.defenses.anp import ANP
from plugins.defenses.ft import FT
from plugins.defenses.nad import NAD
from plugins.defenses.nc import NC
from plugins.models.nin import NiN
from plugins.models.resnet20 import ResNet20
from plugins.parts.universal_triggers import UniversalTriggers
from tests.kit.learned import access_to

pytestmark = pytest.mark.usefixtures("one_thread")

TASK = Task("noise", classes=8, height=16, width=16, channels=3, train_count=64)
MODELS: dict[str, Model] = {"with BatchNorm": ResNet20(), "without": NiN()}


def data(count: int = 64) -> ImageSet:
    """Each class is a colour of its own."""
    draw = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 8
    colours = torch.stack([labels & 1, (labels >> 1) & 1, (labels >> 2) & 1], 1) * 160
    noise = torch.randint(0, 90, (count, 16, 16, 3), generator=draw)
    return ImageSet((noise + colours[:, None, None]).to(torch.uint8), labels)


@cache
def natural(kind: str) -> nn.Module:
    torch.manual_seed(0)
    net = MODELS[kind].build(TASK)
    access(net, kind).fit(net, data(128), epochs=8, lr=0.02)
    return net


def access(net: nn.Module, kind: str, **parts: Any) -> Access:
    granted = access_to(net, data(), MODELS[kind])
    opened = {name: (lambda module=module: module) for name, module in parts.items()}
    granted._context = replace(granted._context, task=TASK, parts=opened)
    return granted


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in net.parameters()])


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("method", ["nc", "nad", "anp"])
def test_it_changes_a_natural_network(method: str, kind: str) -> None:
    net = natural(kind)
    if method == "nc":
        part = UniversalTriggers(steps=12, images=32, bound=0.3).make(access(net, kind))
        defense: Any = NC(**NC.presets["deck"])
        result = defense.defend(access(net, kind, triggers=part)).model
    elif method == "nad":
        teacher = FT(epochs=1).defend(access(net, kind))
        result = NAD(epochs=1).defend(access(net, kind, teacher=teacher))
    else:
        result = ANP(iterations=8).defend(access(net, kind)).model
    assert result is not None
    images = to_float(data(16).images)
    with torch.no_grad():
        logits = result(images)
    assert logits.shape == (16, 8)
    assert torch.isfinite(logits).all()
    if method != "anp":  # which prunes what it finds sensitive, perhaps nothing
        assert not torch.equal(weights(result), weights(net))
