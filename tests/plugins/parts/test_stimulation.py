from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from harness import Anatomy, Incompatible, Task, Unit
from harness.components import Model
from harness.learn.images import to_float
from plugins.models.mnist_nets import CNN4, FC5
from plugins.models.nin import NiN
from plugins.models.resnet18 import ResNet18
from plugins.models.resnet20 import ResNet20
from plugins.models.small_cnn import SmallCNN
from plugins.models.timm_net import TimmNet
from plugins.models.torchvision_net import TorchvisionNet
from plugins.models.wrn16_1 import WRN16
from plugins.parts.stimulation import (
    LEVELS,
    Candidate,
    Sums,
    _cuts,
    _peaks,
    _stimulated,
    channels_first,
    election,
    elevated,
    neurons_of,
    shortlist,
)
from tests.kit.learned import Tiny, access_to, pictures

pytestmark = pytest.mark.usefixtures("one_thread")


class Crossed(nn.Module):
    """A stage whose input goes round it too, so that it does not feed the rest alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.stage1 = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        first = self.stem(images).relu()
        logits: Tensor = self.head((self.stage1(first) + first).mean((2, 3)))
        return logits


class CrossedModel(Model):
    def build(self, task: Task) -> nn.Module:
        return Crossed()

    def anatomy(self, module: nn.Module) -> Anatomy:
        return Anatomy(stem="stem", stages=("stage1",), features="stage1", head="head")


def built(model: Model, task: Task = Tiny.task) -> nn.Module:
    torch.manual_seed(1)
    return model.build(task).eval().requires_grad_(False)


def naive(net: nn.Module, images: Tensor, module: str, channel: int, values: list[float]) -> Tensor:
    """Logits with one channel at each of these values, one pass for each value."""
    found = []
    for value in values:

        def hook(layer: nn.Module, inputs: object, output: Tensor, value: float = value) -> Tensor:
            output = output.clone()
            output[:, channel] = value
            return output

        handle = net.get_submodule(module).register_forward_hook(hook)
        with torch.no_grad():
            found.append(net(images))
        handle.remove()
    return torch.stack(found)


@pytest.mark.parametrize("model", [Tiny(), Tiny(norms=False, hidden=5), CrossedModel()])
def test_neurons_restated_one_by_one(model: Model) -> None:
    net, data = built(model), pictures(12)
    access, images = access_to(net, model=model), to_float(data.images)
    assert data.labels is not None
    expected = {}
    for unit in access.units(net):
        seen: list[Tensor] = []
        handle = net.get_submodule(unit.module).register_forward_hook(
            lambda m, i, o, seen=seen: seen.append(o)
        )
        net(images)
        handle.remove()
        step = 8 * float(seen[0].max()) / 5
        for channel in range(unit.count):
            logits = naive(net, images, unit.module, channel, [step * level for level in range(5)])
            vote = election(logits, data.labels, dissent=2)
            if vote:
                expected[unit.module, channel] = vote
    found = elevated(access, net, images, data.labels, dissent=2, at_once=200)
    assert {(one.module, one.channel) for one in found} == set(expected)
    for one in found:
        label, score = expected[one.module, one.channel]
        assert one.label == label
        assert one.score == pytest.approx(score, rel=1e-3, abs=1e-4)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    channels = sum(unit.count for unit in access.units(net))
    assert channels * LEVELS * 12 / 3 * 0.9 < access.images_processed <= channels * LEVELS * 12 / 3


COLOURS = Task("colours", 10, 16, 16, 3, 1)


@pytest.mark.parametrize(
    "model",
    [ResNet18(width=4), ResNet20(), TorchvisionNet(arch="resnet18")],
    ids=lambda m: type(m).__name__,
)
def test_neurons_of_residual_networks_are_sums(model: Any) -> None:
    """Not the layers within a block, as in the released code."""
    net = built(model, COLOURS)
    images = torch.rand(2, 3, 16, 16)
    blocks = list(access_to(net, model=model).anatomy(net).blocks)
    neurons = neurons_of(access_to(net, model=model), net, images)
    assert [neuron.module for neuron in neurons] == blocks
    assert {neuron.count for neuron in neurons} >= {neurons[0].count, 4 * neurons[0].count}


class Mixed(nn.Module):
    """BatchNorm after one hidden linear layer and not after another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Linear(4, 6)
        self.first_norm = nn.BatchNorm1d(6)
        self.second = nn.Linear(6, 5)
        self.head = nn.Linear(5, 10)

    def forward(self, images: Tensor) -> Tensor:
        means = self.norm(self.conv(images)).relu().mean((2, 3))
        inner = self.first_norm(self.first(means)).relu()
        logits: Tensor = self.head(self.second(inner).relu())
        return logits


def test_neurons_of_hidden_linear_layers_come_on_top() -> None:
    net = Mixed().eval()
    found = neurons_of(access_to(net), net, torch.rand(2, 3, 16, 16))
    assert found == [Unit("norm", 4), Unit("first_norm", 6), Unit("second", 5)]


def test_a_sum_is_known_before_its_rectification() -> None:
    left, right = torch.randn(2, 5), torch.randn(2, 5)
    for rectify in (functional.relu, torch.relu, torch.relu_, nn.ReLU(inplace=True), Tensor.relu):
        with Sums() as sums:
            total = left + right
            assert sums.of(total) is total
            output = rectify(total)
            before = sums.of(output)
            assert sums.of(left) is None
        assert before is not None
        torch.testing.assert_close(before, left + right)
        torch.testing.assert_close(output, (left + right).clamp(min=0))


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(2, 9), st.integers(2, 4), st.integers(0, 3))
def test_the_election_restated(seed: int, count: int, classes: int, dissent: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(LEVELS, count, classes, generator=draw)
    logits[1:, :, 0] += 2 * float(torch.rand((), generator=draw))
    labels = torch.randint(0, classes, (count,), generator=draw)
    votes, leads = [], []
    for image in range(count):
        rise = [
            max(float(logits[s, image, c]) for s in range(1, LEVELS)) - float(logits[0, image, c])
            for c in range(classes)
        ]
        first, second = sorted(rise, reverse=True)[:2]
        votes.append(rise.index(first))
        leads.append(first - second)
    tally = Counter(votes)
    label = min(tally, key=lambda one: (-tally[one], one))
    counted = [
        lead
        for vote, lead, true in zip(votes, leads, labels.tolist(), strict=True)
        if vote == label != true
    ]
    expected = (
        (label, min(counted)) if tally[label] >= count - dissent and counted else None
    )  # leads are above 0
    found = election(logits, labels, dissent)
    assert (found is None) == (expected is None)
    if found and expected:
        assert found[0] == expected[0]
        assert found[1] == pytest.approx(expected[1], abs=1e-5)


def test_the_shortlist_spreads_over_layers_first() -> None:
    neurons = [Candidate("a" if n < 8 else "b", n, 10, 0, 20.0 - n) for n in range(12)]
    chosen = [neuron.channel for neuron in shortlist(neurons, number=7, spread=5, per_layer=3)]
    assert chosen == [0, 1, 2, 8, 9, 3, 4]
    assert shortlist(neurons, 2, 5, 3) == neurons[:2]
    assert len(shortlist(neurons, 99, 5, 3)) == 12


MODELS = [
    (ResNet20(), Task("colours", 10, 16, 16, 3, 1)),
    (WRN16(), Task("colours", 10, 16, 16, 3, 1)),
    (NiN(), Task("colours", 10, 16, 16, 3, 1)),
    (SmallCNN(), Task("greys", 8, 16, 16, 1, 1)),
    (CNN4(norm=False), Task("digits", 10, 28, 28, 1, 1)),
    (FC5(norm=False), Task("digits", 10, 28, 28, 1, 1)),
    (TimmNet(arch="test_vit"), Task("colours", 10, 32, 32, 3, 1)),
]


@pytest.mark.parametrize(
    ("model", "task"), MODELS, ids=lambda one: getattr(one, "arch", type(one).__name__)
)
def test_channels_of_every_kind_of_network(model: Model, task: Task) -> None:
    """The answers are those of a pass for each value; copies start within the network where its
    parts allow it.
    """
    net = built(model, task)
    access = access_to(net, model=model)
    images = torch.rand(3, *task.image_shape, generator=torch.Generator().manual_seed(0))
    units = list(access.units(net))
    chosen = [units[0], units[len(units) // 2], units[-1]]
    with torch.no_grad():
        peaks, cuts = _peaks(net, images, chosen), _cuts(access, net, images, chosen)
        for unit in chosen:
            step, channels = peaks[unit.module], torch.tensor([0, unit.count - 1])
            found = _stimulated(net, images, unit, channels, step, cuts[unit])
            whole = _stimulated(net, images, unit, channels, step, "")
            torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-3)
            if not isinstance(model, TimmNet):
                values = [step * level for level in range(LEVELS)]
                expected = naive(net, images, unit.module, unit.count - 1, values)
                torch.testing.assert_close(found[1], expected, rtol=1e-3, atol=1e-3)
    assert any(cuts.values())


def test_where_channels_are() -> None:
    assert channels_first(nn.Conv2d(1, 4, 1), torch.zeros(2, 4, 3, 4), 4).shape == (2, 4, 3, 4)
    assert channels_first(nn.Linear(3, 4), torch.zeros(2, 4, 3, 4), 4).shape == (2, 4, 4, 3)
    assert channels_first(nn.Linear(3, 5), torch.zeros(2, 7, 5), 5).shape == (2, 5, 7)
    assert channels_first(nn.Linear(3, 5), torch.zeros(2, 5, 7), 5).shape == (2, 5, 7)
    with pytest.raises(Incompatible, match="no dimension"):
        channels_first(nn.Linear(3, 5), torch.zeros(2, 7), 5)
