from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from harness.components import Context, Model, Task
from plugins.models.blocks import Conv3x3, GlobalMax, GlobalMean
from plugins.models.resnet18 import ResNet18
from plugins.models.resnet20 import ResNet20
from plugins.models.small_cnn import SmallCNN
from plugins.parts.weights_file import fill, in_torch_order, read_tensors
from tests.kit.outside import cifar10_test, outside

MODELS = [SmallCNN(), ResNet18(width=8), ResNet20()]
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)


def task(size: int = 16, channels: int = 3, classes: int = 10) -> Task:
    return Task("pictures", classes, size, size, channels, 100)


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@each_model
@pytest.mark.parametrize("given", [task(), task(17, channels=1, classes=3), task(32, classes=43)])
def test_a_step_lowers_the_loss_and_logits_have_the_task_s_shape(model: Model, given: Task) -> None:
    torch.manual_seed(0)
    net = model.build(given)
    images = torch.rand(8, *given.image_shape)
    labels = torch.arange(8) % given.classes
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        logits = net(images)
        assert logits.shape == (8, given.classes)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert losses[-1] < losses[0]


@each_model
def test_building_draws_from_the_global_generator_only(model: Model) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(model.build(task()).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (SmallCNN(), 61_338),
        (SmallCNN(width=32), 242_474),
        # The number every paper's CIFAR ResNet-18 has.
        (ResNet18(), 11_173_962),
        # The released network's arrays, moving averages not counted.
        (ResNet20(), 273_066),
    ],
)
def test_parameter_counts(model: Model, parameters: int) -> None:
    assert count(model.build(task(32))) == parameters


def outputs(
    net: nn.Module, names: tuple[str, ...], images: torch.Tensor
) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: seen.__setitem__(name, output)

    handles = [net.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    net.eval()(images)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize(
    ("model", "stem", "stages", "features"),
    [
        (SmallCNN(), (16, 16), [(32, 8), (64, 4), (64, 4)], 64),
        (ResNet18(), (64, 32), [(64, 32), (128, 16), (256, 8), (512, 4)], 512),
        (ResNet20(), (16, 32), [(16, 32), (32, 16), (64, 8)], 64),
    ],
)
def test_the_anatomy_names_parts_with_these_channels_and_sizes(
    model: Model, stem: tuple[int, int], stages: list[tuple[int, int]], features: int
) -> None:
    net = model.build(task(32))
    anatomy = model.anatomy(net)
    seen = outputs(
        net,
        (anatomy.stem, *anatomy.stages, anatomy.features, anatomy.head),
        torch.rand(2, 3, 32, 32),
    )
    assert seen[anatomy.stem].shape == (2, stem[0], stem[1], stem[1])
    assert [tuple(seen[name].shape[1:3]) for name in anatomy.stages] == stages
    head = net.get_submodule(anatomy.head)
    assert isinstance(head, nn.Linear)
    assert head.in_features == features
    assert torch.allclose(head(seen[anatomy.features].flatten(1)), seen[anatomy.head])


@pytest.mark.parametrize(
    ("model", "blocks"),
    [
        (SmallCNN(), [(32, 8), (64, 4), (64, 4)]),
        (ResNet18(width=8), [(8, 32)] * 2 + [(16, 16)] * 2 + [(32, 8)] * 2 + [(64, 4)] * 2),
        (ResNet20(), [(16, 32)] * 3 + [(32, 16)] * 3 + [(64, 8)] * 3),
    ],
)
def test_the_blocks_go_from_stem_to_features(model: Model, blocks: list[tuple[int, int]]) -> None:
    net = model.build(task(32))
    anatomy = model.anatomy(net)
    seen = outputs(net, anatomy.blocks, torch.rand(2, 3, 32, 32))
    assert [tuple(seen[name].shape[1:3]) for name in anatomy.blocks] == blocks
    assert all(
        any(f"{name}.".startswith(f"{stage}.") for stage in anatomy.stages)
        for name in anatomy.blocks
    )
    ends = [
        max(i for i, name in enumerate(anatomy.blocks) if name.startswith(stage))
        for stage in anatomy.stages
    ]
    again = outputs(net, anatomy.stages, images := torch.rand(2, 3, 32, 32))
    last = outputs(net, anatomy.blocks, images)
    for end, stage in zip(ends, anatomy.stages, strict=True):
        assert torch.equal(last[anatomy.blocks[end]], again[stage])


@pytest.mark.parametrize(
    ("model", "layers", "channels"),
    [
        (SmallCNN(), 4, 16 + 32 + 64 + 64),
        (ResNet18(), 20, 4800),
        (ResNet20(), 19, 6 * 16 + 16 + 5 * 32 + 32 + 6 * 64),
    ],
)
def test_the_units_are_the_channels_of_every_batch_norm(
    model: Model, layers: int, channels: int
) -> None:
    net = model.build(task(32))
    units = list(model.units(net))
    assert len(units) == layers
    assert sum(unit.count for unit in units) == channels
    assert all(isinstance(net.get_submodule(unit.module), nn.BatchNorm2d) for unit in units)


@each_model
def test_normalisation_is_inside_and_changes_nothing_else(model: Model) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    images = torch.rand(4, 3, 16, 16)
    torch.manual_seed(1)
    plain = model.build(task()).eval()
    torch.manual_seed(1)
    normalised = (
        type(model)(**{**model.model_dump(), "mean": mean, "std": std}).build(task()).eval()
    )
    shifted = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(plain(shifted), normalised(images), atol=1e-5)
    assert plain.state_dict().keys() == normalised.state_dict().keys()


@pytest.mark.parametrize(
    ("fields", "channels", "reason"),
    [
        ({"mean": (0.5,)}, 1, "mean and std go together"),
        ({"std": (0.5,)}, 1, "mean and std go together"),
        (
            {"mean": (0.5,) * 3, "std": (0.5,) * 3},
            1,
            "mean has 3 values, but images of pictures have 1 channels",
        ),
        (
            {"mean": (0.5,) * 3, "std": (0.5,)},
            3,
            "std has 1 values, but images of pictures have 3 channels",
        ),
        ({"mean": (0.5,), "std": (0.0,)}, 1, "std must be positive in every channel, not 0.0"),
    ],
)
@pytest.mark.parametrize("kind", [SmallCNN, ResNet18, ResNet20])
def test_a_normalisation_that_does_not_fit_is_incompatible(
    kind: type[Model], fields: dict[str, Any], channels: int, reason: str
) -> None:
    model = kind(**fields)
    assert reason in str(model.compatible(Context(task(channels=channels))))
    with pytest.raises(ValueError, match=reason):
        model.build(task(channels=channels))


class Bare(Model):
    def build(self, task: Task) -> nn.Module:
        return nn.Linear(1, task.classes)


def test_the_normalisation_of_any_model_is_checked() -> None:
    assert Bare().compatible(Context(task())) is None
    assert Bare(mean=(0.5,), std=(0.5,)).compatible(Context(task(channels=1))) is None
    assert "mean has 1 values" in str(Bare(mean=(0.5,), std=(0.5,)).compatible(Context(task())))


@each_model
def test_every_ordinary_task_is_compatible(model: Model) -> None:
    assert model.compatible(Context(task())) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_cnn_s_order_of_pooling_and_relu_moves_no_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = SmallCNN().build(task(32)).to(dtype)
    assert [type(layer) for layer in net.stem[-2:]] == [nn.MaxPool2d, nn.ReLU]
    seen = []
    for _ in range(2):
        net.zero_grad()
        images = (
            torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
            .to(dtype)
            .requires_grad_()
        )
        logits = net(images)
        logits.square().sum().backward()
        seen.append(
            [logits, images.grad, *(parameter.grad.clone() for parameter in net.parameters())]
        )
        for block in (net.stem, net.stage1, net.stage2):
            block[-2], block[-1] = block[-1], block[-2]
    assert all(torch.equal(*pair) for pair in zip(*seen, strict=True))


def test_small_cnn_names_the_smallest_image() -> None:
    assert SmallCNN().compatible(Context(task(8))) is None
    assert "8 x 8 pixels at least; those of pictures have 7 x 7" in str(
        SmallCNN().compatible(Context(task(7)))
    )


@pytest.mark.parametrize("kind", [SmallCNN, ResNet18])
def test_width_is_a_positive_integer(kind: type[Model]) -> None:
    for width in (0, -1, 1.5, "16"):
        with pytest.raises(ValidationError):
            kind.model_validate({"width": width})


@pytest.mark.parametrize("kind", [ResNet18, ResNet20])
def test_presets_are_valid_parameters(kind: type[Model]) -> None:
    assert kind.presets
    for fields in kind.presets.values():
        kind(**fields).build(task())


@pytest.mark.parametrize(("size", "padding"), [(8, (0, 1, 0, 1)), (7, (1, 1, 1, 1))])
def test_a_trailing_convolution_pads_as_tensorflow_does(
    size: int, padding: tuple[int, ...]
) -> None:
    layer = Conv3x3(2, 4, stride=2, bias=True, trailing=True)
    images = torch.rand(3, 2, size, size)
    expected = F.conv2d(F.pad(images, padding), layer.weight, layer.bias, stride=2)
    assert torch.allclose(layer(images), expected, atol=1e-6)
    assert layer(images).shape[2] == -(-size // 2)


def test_global_pools_keep_four_axes() -> None:
    images = torch.rand(2, 5, 3, 4)
    assert torch.equal(GlobalMax()(images).flatten(1), images.flatten(2).max(2).values)
    assert torch.allclose(GlobalMean()(images).flatten(1), images.flatten(2).mean(2))
    assert GlobalMax()(images).shape == GlobalMean()(images).shape == (2, 5, 1, 1)


def in_order_of_use(net: nn.Module, kind: type[nn.Module]) -> list[str]:
    return [name for name, module in net.named_modules() if isinstance(module, kind)]


def test_resnet20_takes_the_released_names() -> None:
    torch.manual_seed(0)
    one, other = ResNet20().build(task(32)), ResNet20().build(task(32))
    state = one.state_dict()
    norm = {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    }
    kinds: list[tuple[str, type[nn.Module], dict[str, str]]] = [
        ("conv2d", nn.Conv2d, {"weight": "kernel", "bias": "bias"}),
        ("batch_normalization", nn.BatchNorm2d, norm),
        ("dense", nn.Linear, {"weight": "kernel", "bias": "bias"}),
    ]
    released = {
        f"{kind}_{number}.{theirs}": state[f"{layer}.{ours}"]
        for kind, layers, names in kinds
        for number, layer in enumerate(in_order_of_use(one, layers), start=1)
        for ours, theirs in names.items()
    }
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    assert len(released) == len(state) - len(counters)
    missing, unexpected = other.load_state_dict(released, strict=False)
    assert set(missing) <= counters
    assert not unexpected
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in state.items())


@pytest.mark.real
def test_the_released_resnet20_keeps_its_accuracy() -> None:
    weights = outside("BENCH_MODELS", "cifar10-resnet20-natural.npz")
    images, labels = cifar10_test(2000)
    net = ResNet20(**ResNet20.presets["moth"]).build(task(32)).eval()
    fill(net, in_torch_order(read_tensors(weights), "hwio"), weights)
    with torch.no_grad():
        predicted = torch.cat([net(part).argmax(1) for part in torch.split(images, 500)])
    assert (predicted == labels).float().mean().item() == pytest.approx(0.9135, abs=1e-3)
