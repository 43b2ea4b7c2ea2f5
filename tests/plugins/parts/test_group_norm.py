from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from harness import Task
from harness.components import Model
from harness.learn.layers import NORMS
from plugins.defenses.dp_sgd import DPSGD, Private
from plugins.parts.group_norm import Grouped, groups_of, without_batchnorm
from tests.kit.learned import Tiny

pytestmark = pytest.mark.usefixtures("one_thread")

PHOTO = Task("photos", classes=4, height=16, width=16, channels=3, train_count=10)
DIGIT = Task("digits", classes=4, height=28, width=28, channels=1, train_count=10)
MODELS = {
    "cnn:CNN": Task("photos", classes=4, height=32, width=32, channels=3, train_count=10),
    "mnist_nets:CNN4": DIGIT,
    "mnist_nets:FC5": DIGIT,
    "nin:NiN": PHOTO,
    "preact_resnet18:PreActResNet18": PHOTO,
    "resnet18:ResNet18": PHOTO,
    "resnet18:ResNet50": PHOTO,
    "resnet20:ResNet20": PHOTO,
    "small_cnn:SmallCNN": PHOTO,
    "smallvgg:SmallVGG": Task("photos", classes=4, height=32, width=32, channels=3, train_count=10),
    "vgg:VGG11": Task("photos", classes=4, height=32, width=32, channels=3, train_count=10),
    "wrn16_1:WRN16": PHOTO,
}
LIBRARIES = {
    "timm": ("timm_net:TimmNet", "resnet10t"),
    "torchvision": ("torchvision_net:TorchvisionNet", "resnet18"),
}


def built(target: str, task: Task, **fields: str) -> tuple[Model, nn.Module]:
    module, _, name = target.partition(":")
    model: Model = getattr(importlib.import_module(f"plugins.models.{module}"), name)(**fields)
    torch.manual_seed(0)
    return model, without_batchnorm(model.build(task), 32)


def every() -> Iterator[tuple[str, Task, dict[str, str]]]:
    yield from ((target, task, {}) for target, task in MODELS.items())
    yield from ((target, PHOTO, {"arch": arch}) for target, arch in LIBRARIES.values())


@pytest.mark.parametrize(
    ("target", "task", "fields"), list(every()), ids=lambda value: str(value)[:20]
)
def test_images_of_every_network_are_on_their_own(
    target: str, task: Task, fields: dict[str, str]
) -> None:
    """No BatchNorm is left, an image's logits know nothing of its neighbours, and each has a
    gradient of its own.
    """
    model, net = built(target, task, **fields)
    assert not any(isinstance(layer, NORMS) for layer in net.modules())
    images, labels = torch.rand(2, *task.image_shape), torch.tensor([0, 3])
    for layer in net.modules():
        layer.training = not isinstance(layer, nn.Dropout)
    torch.testing.assert_close(net(images)[:1], net(images[:1]), atol=1e-4, rtol=1e-3)
    private = Private(DPSGD(clip=1e6, noise=0.0), 0.0, 2.0, normal=torch.zeros_like)
    found, value = private.gradient(net, images, labels)
    loss = functional.cross_entropy(net(images), labels)
    expected = torch.autograd.grad(loss, list(net.parameters()))
    torch.testing.assert_close(value, loss, atol=1e-4, rtol=1e-3)
    both = [torch.cat([part.flatten() for part in parts]) for parts in (found.values(), expected)]
    # Rounding moves what is near the kink of a rectifier; a network that mixed its images would
    # have another gradient.
    assert float(functional.cosine_similarity(both[0], both[1], dim=0)) > 0.99
    anatomy = model.anatomy(net)
    assert isinstance(net.get_submodule(anatomy.head), nn.Linear)
    assert list(model.units(net))


def test_names_scales_and_shifts_stay() -> None:
    net = Tiny().build(Tiny.task)
    norm = net.get_submodule("stem.1")
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.constant_(norm.weight, 0.0)
    nn.init.constant_(norm.bias, 0.25)
    names = [name for name, _ in net.named_parameters()]
    changed = without_batchnorm(net.eval(), 32).get_submodule("stem.1")
    assert isinstance(changed, Grouped)
    assert (changed.num_groups, changed.num_channels, changed.training) == (2, 4, False)
    assert (changed.weight == 0).all()
    assert (changed.bias == 0.25).all()
    assert [name for name, _ in net.named_parameters()] == names


def test_what_a_batchnorm_carries_comes_after() -> None:
    class Active(nn.BatchNorm2d):
        def __init__(self, channels: int) -> None:
            super().__init__(channels, affine=False)
            self.act = nn.ReLU()

    net = without_batchnorm(nn.Sequential(Active(4)), 2)
    images = torch.randn(3, 4, 5, 5)
    expected = functional.group_norm(images, 2, eps=1e-5).relu()
    torch.testing.assert_close(net(images), expected)


def test_a_net_without_batchnorm_is_left_as_it_is() -> None:
    net = Tiny(norms=False).build(Tiny.task)
    before = list(net.modules())
    assert list(without_batchnorm(net, 32).modules()) == before
    with pytest.raises(ValueError, match="no network"):
        without_batchnorm(nn.BatchNorm2d(4), 2)


@given(st.integers(1, 600), st.integers(1, 64))
def test_groups_divide_the_channels_and_have_two_at_least(channels: int, most: int) -> None:
    found = groups_of(channels, most)
    assert channels % found == 0
    assert found <= most
    assert channels // found >= 2 or channels == 1
    assert all(channels % more or channels // more < 2 for more in range(found + 1, most + 1))
