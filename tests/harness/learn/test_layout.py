"""Networks that cannot take images with the channels last in memory."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from harness.learn.device import seeded_build
from harness.learn.evaluation import check_outputs, predict
from harness.learn.layout import channels_first, settle
from harness.learn.recipes import Recipe
from harness.learn.task import Task
from harness.learn.training import fit
from tests.kit.learned import Tiny, pictures

TASK = Task("noise", classes=3, height=8, width=8, channels=3, train_count=30)


class Viewing(nn.Module):
    """Flattens as many published networks do."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(4 * 8 * 8 + broken, 3)
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        inner = self.norm(self.conv(images)).relu()
        flat = inner.view(len(images), -1)
        logits: Tensor = self.head(self.drop(flat))
        return logits


class Published:
    def build(self, task: Task) -> nn.Module:
        return Viewing()


def steps() -> Recipe:
    return Recipe(epochs=2, batch=10, lr=0.01)


def streams(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(len(name))


def test_a_network_that_flattens_with_view_is_trained_and_evaluated() -> None:
    net = seeded_build(Published(), TASK, 0)
    data = pictures(30, channels=3)
    fit(net, data, steps(), generator=streams)
    labels, logits = predict(net, data.images, classes=3)
    check_outputs(net, TASK)
    pixels = data.images.permute(0, 3, 1, 2).contiguous().float() / 255
    with torch.no_grad():
        assert torch.allclose(net(pixels), logits.float(), atol=1e-2)
    assert len(labels) == 30
    again = copy.deepcopy(net)
    assert torch.equal(predict(again, data.images)[0], labels), "copies are marked, too"


def test_asking_leaves_no_trace_in_the_network_or_in_generators() -> None:
    torch.manual_seed(4)
    net = Viewing()
    before = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state()
    assert settle(net, TASK) is net
    assert net.training
    assert net.calls == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert channels_first in net._forward_pre_hooks.values()


def test_networks_that_take_both_and_those_that_take_neither_are_left_alone() -> None:
    for net in (Tiny().build(TASK), Viewing(broken=True), nn.Identity(), nn.Linear(3, 3)):
        settle(net, TASK)
        assert not net._forward_pre_hooks
