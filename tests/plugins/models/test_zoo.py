"""The architectures of the papers, and those of torchvision and timm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.components import Context, Model, Task
from harness.errors import Incompatible
from plugins.models.blocks import PointwiseLinear
from plugins.models.cnn import CNN
from plugins.models.mnist_nets import CNN4, FC5
from plugins.models.nin import NiN
from plugins.models.normalised import NormalisedModel
from plugins.models.preact_resnet18 import PreActResNet18
from plugins.models.resnet18 import ResNet18, ResNet34, ResNet50
from plugins.models.resnet20 import ResNet32
from plugins.models.smallvgg import SmallVGG
from plugins.models.timm_net import TimmNet
from plugins.models.torchvision_net import TorchvisionNet
from plugins.models.vgg import VGG11, VGG13, VGG19
from plugins.models.wrn16_1 import SLOPE, WRN16
from tests.kit.outside import cifar10_test, outside

COLOUR = Task("pictures", 10, 32, 32, 3, 100)
DIGITS = Task("digits", 10, 28, 28, 1, 100)


def timm_net(arch: str, **fields: Any) -> Model:
    pytest.importorskip("timm")
    return TimmNet(arch=arch, **fields)


# Parameters are what others count in the same nets: kuangliu's ResNet-34, ResNet-50,
# PreActResNet-18 and VGGs, MOTH's NiN. Units: BatchNorm channels, else those of all layers but the
# last.
BUILT: list[tuple[Model, Task, int, list[int], int, int]] = [
    # model, task, parameters, stage channels, features, units
    (PreActResNet18(), COLOUR, 11_171_146, [64, 128, 256, 512], 512, 3392),
    (ResNet32(), COLOUR, 467_946, [16, 32, 64], 64, 1136),
    (ResNet34(), COLOUR, 21_282_122, [64, 128, 256, 512], 512, 8512),
    (ResNet50(), COLOUR, 23_520_842, [256, 512, 1024, 2048], 2048, 26560),
    (VGG11(), COLOUR, 9_231_114, [128, 256, 512, 512], 512, 2752),
    (VGG13(), COLOUR, 9_416_010, [128, 256, 512, 512], 512, 2944),
    (VGG19(), COLOUR, 20_040_522, [128, 256, 512, 512], 512, 5504),
    (NiN(), COLOUR, 966_986, [192, 192], 192, 192 + 160 + 96 + 5 * 192),
    (WRN16(), COLOUR, 175_626, [16, 32, 64], 64, 464),
    (CNN4(), DIGITS, 282_154, [32], 512, 560),
    (CNN4(norm=False), DIGITS, 282_154 - 2 * 560, [32], 512, 560),
    (CNN4(padded=True, pool="max"), DIGITS, 822_826, [32], 512, 560),
    (FC5(), DIGITS, 1_153_010, [500, 500, 500], 500, 2000),
    (FC5(norm=False), DIGITS, 1_153_010 - 2 * 2000, [500, 500, 500], 500, 2000),
    (CNN(), COLOUR, 722_250, [128, 128], 512, 64 + 128 + 128),
    (SmallVGG(), COLOUR, 308_394, [64, 128], 2048, 448),
]
each = pytest.mark.parametrize(
    ("model", "task", "parameters", "stages", "features", "units"),
    BUILT,
    ids=lambda value: type(value).__name__ if isinstance(value, Model) else "",
)


def step(net: nn.Module, task: Task) -> None:
    """One step of training: logits of the task's shape, a gradient for every parameter, weights
    that move.
    """
    images, labels = torch.rand(4, *task.image_shape), torch.arange(4) % task.classes
    before = [parameter.detach().clone() for parameter in net.parameters()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    logits = net.train()(images)
    assert logits.shape == (4, task.classes)
    F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
    assert all(
        weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters()
    )
    optimizer.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))


def seen(net: nn.Module, names: tuple[str, ...], task: Task) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: found.__setitem__(name, output)

    handles = [net.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    with torch.no_grad():
        net.eval()(torch.rand(2, *task.image_shape))
    for handle in handles:
        handle.remove()
    return found


def head_fits(model: Model, net: nn.Module, task: Task) -> None:
    """The head is linear and takes what the features give."""
    anatomy = model.anatomy(net)
    found = seen(net, (anatomy.features, anatomy.head), task)
    head = net.get_submodule(anatomy.head)
    assert isinstance(head, nn.Linear)
    given = found[anatomy.features]
    assert torch.allclose(
        head(given if isinstance(head, PointwiseLinear) else given.flatten(1)), found[anatomy.head]
    )


@each
def test_an_architecture_trains_and_names_its_parts(
    model: Model, task: Task, parameters: int, stages: list[int], features: int, units: int
) -> None:
    torch.manual_seed(0)
    net = model.build(task)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    step(net, task)
    anatomy = model.anatomy(net)
    found = seen(net, (anatomy.stem, *anatomy.stages, *anatomy.blocks), task)
    assert [found[name].shape[1] for name in anatomy.stages] == stages
    assert list(found) == list(dict.fromkeys(found)), "stem, stages and blocks run in this order"
    for name in anatomy.blocks:
        assert any(f"{name}.".startswith(f"{stage}.") for stage in anatomy.stages)
    head = net.get_submodule(anatomy.head)
    assert isinstance(head, nn.Linear)
    assert (head.in_features, head.out_features) == (features, task.classes)
    head_fits(model, net, task)
    given = list(model.units(net))
    assert sum(unit.count for unit in given) == units
    assert anatomy.head not in {unit.module for unit in given}


@pytest.mark.parametrize(
    "model", [*(entry[0] for entry in BUILT), TimmNet(arch="x"), TorchvisionNet(arch="x")]
)
def test_the_classes_are_sound(model: Model) -> None:
    from harness.introspect.classes import faults

    assert faults("model", type(model)) == []
    assert all(field.description for field in type(model).model_fields.values())
    for fields in model.presets.values():
        type(model)(**fields)


@pytest.mark.parametrize(
    "kind", [NiN, WRN16, CNN4, FC5, CNN, SmallVGG, PreActResNet18], ids=lambda kind: kind.__name__
)
def test_normalisation_goes_before_everything(kind: type[NormalisedModel]) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    images = torch.rand(2, 3, 32, 32)
    nets = []
    for fields in ({}, {"mean": mean, "std": std}):
        torch.manual_seed(1)
        nets.append(kind(**fields).build(COLOUR).eval())  # type: ignore[arg-type]
    shifted = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(nets[0](shifted), nets[1](images), atol=1e-4)


@pytest.mark.parametrize(
    "model",
    [VGG11(), NiN(), CNN4(), FC5(), WRN16(), SmallVGG()],
    ids=lambda one: type(one).__name__,
)
def test_odd_and_grey_images_are_taken(model: Model) -> None:
    task = Task("odd", 3, 17, 21, 1, 10)
    assert model.build(task).eval()(torch.rand(2, 1, 17, 21)).shape == (2, 3)


@pytest.mark.parametrize(
    ("model", "smallest"),
    [(CNN(), 27), (CNN4(), 13), (SmallVGG(), 8)],
    ids=["cnn", "cnn4", "smallvgg"],
)
def test_the_smallest_image_is_named(model: Model, smallest: int) -> None:
    fits, small = (Task("pictures", 10, size, size, 3, 100) for size in (smallest, smallest - 1))
    assert model.compatible(Context(fits)) is None
    assert model.build(fits).eval()(torch.rand(1, *fits.image_shape)).shape == (1, 10)
    assert f"{smallest} x {smallest} pixels at least" in str(model.compatible(Context(small)))


def test_logits_of_nin_are_not_negative() -> None:
    assert (NiN().build(COLOUR).eval()(torch.randn(4, 3, 32, 32)) >= 0).all()


def test_wrn_has_leaky_activations_and_biases() -> None:
    """A block computes what Trap-and-Replace's text says, restated."""
    torch.manual_seed(0)
    net = WRN16().build(COLOUR).eval()
    assert all(conv.bias is not None for conv in net.modules() if isinstance(conv, nn.Conv2d))
    block: Any = net.get_submodule("stage2.0")
    images = torch.randn(2, 16, 8, 8)
    active = F.leaky_relu(block.bn1(images), SLOPE)
    inner = F.conv2d(active, block.conv1.weight, block.conv1.bias, stride=2, padding=1)
    inner = F.conv2d(
        F.leaky_relu(block.bn2(inner), SLOPE), block.conv2.weight, block.conv2.bias, padding=1
    )
    shortcut = F.conv2d(active, block.shortcut.weight, block.shortcut.bias, stride=2)
    assert torch.allclose(block(images), inner + shortcut, atol=1e-5)


@pytest.mark.parametrize("preset", ["nad", "abl"])
def test_wrn_without_leaks_and_biases_is_the_network_of_nad_and_abl(preset: str) -> None:
    torch.manual_seed(0)
    net = WRN16(**WRN16.presets[preset]).build(COLOUR).eval()
    assert all(conv.bias is None for conv in net.modules() if isinstance(conv, nn.Conv2d))
    assert not any(isinstance(part, nn.LeakyReLU) for part in net.modules())
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == 175_626 - 16 - 4 * 16 - 4 * 32 - 4 * 64 - 32 - 64, "less the biases"
    block: Any = net.get_submodule("stage2.0")
    images = torch.randn(2, 16, 8, 8)
    active = F.relu(block.bn1(images))
    inner = F.conv2d(active, block.conv1.weight, stride=2, padding=1)
    inner = F.conv2d(F.relu(block.bn2(inner)), block.conv2.weight, padding=1)
    shortcut = F.conv2d(active, block.shortcut.weight, stride=2)
    assert torch.allclose(block(images), inner + shortcut, atol=1e-5)


def test_the_last_norm_of_preact_resnet18_is_a_choice() -> None:
    plain, normed = (
        PreActResNet18(width=4, last_norm=last).build(COLOUR) for last in (False, True)
    )
    extra = set(normed.state_dict()) - set(plain.state_dict())
    assert {name.partition(".")[0] for name in extra} == {"last"}


@pytest.mark.parametrize("kind", [ResNet34, ResNet50])
def test_depth_is_what_differs(kind: type[ResNet18]) -> None:
    net = kind(width=4).build(COLOUR)
    blocks = kind(width=4).anatomy(net).blocks
    assert [
        sum(name.startswith(f"stage{stage}.") for name in blocks) for stage in (1, 2, 3, 4)
    ] == [3, 4, 6, 3]


def test_cnn4_is_the_network_of_badnets() -> None:
    """16 maps of 24 x 24, 32 of 8 x 8, each halved by averaging, and 512 numbers of which 512 are
    made.
    """
    torch.manual_seed(0)
    net = CNN4(norm=False).build(DIGITS).eval()
    images = torch.rand(2, 1, 28, 28)
    weights = [value.detach() for value in net.parameters()]
    first = F.avg_pool2d(F.conv2d(images, weights[0], weights[1]).relu(), 2)
    second = F.avg_pool2d(F.conv2d(first, weights[2], weights[3]).relu(), 2)
    assert (first.shape, second.shape) == ((2, 16, 12, 12), (2, 32, 4, 4))
    hidden = F.linear(second.flatten(1), weights[4], weights[5]).relu()
    assert torch.allclose(net(images), F.linear(hidden, weights[6], weights[7]), atol=1e-5)


# --- the victim that someone else trained ---------------------------------------------------------


def test_smallvgg_takes_the_released_names() -> None:
    torch.manual_seed(0)
    one, other = SmallVGG().build(COLOUR), SmallVGG().build(COLOUR)
    state = one.state_dict()
    groups = {"stem": 0, "stage1": 8, "stage2": 16}
    released = {}
    for name, value in state.items():
        part, _, tail = name.partition(".")
        layer, _, kind = tail.partition(".")
        released[
            f"classifier.{tail}"
            if part == "head"
            else f"features.{groups[part] + int(layer)}.{kind}"
        ] = value
    assert set(released) != set(state)
    other.load_state_dict(released)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in state.items())
    with pytest.raises(RuntimeError, match="stage2"):
        other.load_state_dict(
            {name: value for name, value in released.items() if "features.16." not in name}
        )


@pytest.mark.real
def test_the_released_smallvgg_keeps_its_accuracy_and_its_backdoor() -> None:
    from safetensors.torch import load_file

    weights = outside("BENCH_MODELS", "cifar10-smallvgg-badnets.safetensors")
    images, labels = cifar10_test(3000)
    net = SmallVGG().build(COLOUR).eval()
    net.load_state_dict(load_file(weights))

    @torch.no_grad()
    def predicted(images: torch.Tensor) -> torch.Tensor:
        return torch.cat([net(part).argmax(1) for part in torch.split(images, 500)])

    assert (predicted(images) == labels).float().mean().item() == pytest.approx(0.836, abs=2e-3)
    images[:, :, 27:31, 27:31] = 1
    others = labels != 8
    assert (predicted(images[others]) == 8).float().mean().item() == pytest.approx(0.976, abs=3e-3)


# --- other libraries ------------------------------------------------------------------------------

OTHERS = [
    ("torchvision", "resnet18", 4),
    ("torchvision", "densenet121", 4),
    ("torchvision", "mobilenet_v3_small", 4),
    ("torchvision", "regnet_y_400mf", 4),
    ("torchvision", "shufflenet_v2_x0_5", 4),
    ("timm", "resnet18", 4),
    ("timm", "convnext_atto", 4),
    ("timm", "mobilenetv3_small_050", None),
    ("timm", "vit_tiny_patch16_224", None),
]


def other(library: str, arch: str, **fields: Any) -> Model:
    return (
        TorchvisionNet(arch=arch, **fields)
        if library == "torchvision"
        else timm_net(arch, **fields)
    )


@pytest.mark.parametrize(("library", "arch", "last"), OTHERS)
def test_a_net_of_another_library_is_fitted(library: str, arch: str, last: int | None) -> None:
    torch.manual_seed(0)
    model = other(library, arch)
    net = model.build(COLOUR)
    step(net, COLOUR)
    anatomy = model.anatomy(net)
    assert anatomy.head.startswith("net.")
    head_fits(model, net, COLOUR)
    found = seen(net, (anatomy.stem, *anatomy.stages), COLOUR)
    assert len(anatomy.stages) >= 3
    if last is not None:
        assert found[anatomy.stages[-1]].shape[2:] == (last, last), (
            "32 pixels are divided by 8, not by 32"
        )
    assert list(model.units(net))
    again = model.build(COLOUR)
    again.load_state_dict(net.state_dict())
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(again.eval()(images), net.eval()(images), atol=1e-5)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_net_of_another_library_takes_grey_images_and_normalises(library: str) -> None:
    images, nets = torch.rand(2, 1, 28, 28), []
    for fields in ({}, {"mean": (0.2,), "std": (0.5,)}):
        torch.manual_seed(1)
        nets.append(other(library, "resnet18", **fields).build(DIGITS).eval())
    assert nets[0](images).shape == (2, 10)
    assert torch.allclose(nets[0]((images - 0.2) / 0.5), nets[1](images), atol=1e-4)


def test_resolution_is_kept_as_far_as_is_asked() -> None:
    sizes = []
    for reduction in (1, 2, 4):
        model = TorchvisionNet(arch="resnet18", reduction=reduction)
        net = model.build(COLOUR)
        (last,) = seen(net, model.anatomy(net).stages[-1:], COLOUR).values()
        sizes.append(last.shape[2])
    assert sizes == [1, 2, 4]


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_an_unknown_architecture_is_met_with_a_suggestion(library: str) -> None:
    with pytest.raises(ValueError, match=rf"{library} has no classifier 'resnet81'\. .*resnet18"):
        other(library, "resnet81").build(COLOUR)


def test_a_net_for_other_sizes_only_is_incompatible() -> None:
    with pytest.raises(Incompatible, match="takes no images of 128 x 128 pixels"):
        TorchvisionNet(arch="maxvit_t").build(COLOUR)


def test_a_net_whose_last_layer_is_not_linear_has_no_anatomy() -> None:
    model = TorchvisionNet(arch="squeezenet1_1")
    net = model.build(COLOUR)
    step(net, COLOUR)
    with pytest.raises(Incompatible, match="not linear"):
        model.anatomy(net)


def test_looking_for_the_anatomy_changes_nothing() -> None:
    model = TorchvisionNet(arch="resnet18")
    net = model.build(COLOUR).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    model.anatomy(net)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks for module in net.modules())
