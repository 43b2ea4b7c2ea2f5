from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from plugins.parts.encoder_decoder import EncoderDecoder, squashed


def restated(net: EncoderDecoder, images: Tensor, stages: int) -> Tensor:
    """The network layer by layer from its tensors, which come as one convolution and one norm after
    another.
    """
    state = [tensor for tensor in net.state_dict().values() if tensor.ndim]
    groups = iter([state[start : start + 6] for start in range(0, len(state), 6)])

    def layer(values: Tensor, relu: bool = True) -> Tensor:
        weight, bias, scale, shift, mean, variance = next(groups)
        values = functional.conv2d(values, weight, bias, padding=1)
        values = (values - mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + 1e-5).sqrt()
        values = values * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
        return values.clamp(min=0) if relu else values

    for _ in range(stages):
        images = layer(layer(images)).unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    images = layer(images)
    for stage in range(stages):
        size = (2 * images.shape[2], 2 * images.shape[3])
        images = functional.interpolate(images, size, mode="bilinear", align_corners=False)
        images = layer(layer(images), relu=stage < stages - 1)
    assert next(groups, None) is None
    return images.tanh() / (2 + 1e-7) + 0.5


@pytest.mark.parametrize(
    ("inputs", "outputs", "width", "stages", "side"), [(3, 3, 4, 3, 16), (1, 1, 3, 2, 28)]
)
def test_the_network_restated_layer_by_layer(
    inputs: int, outputs: int, width: int, stages: int, side: int
) -> None:
    torch.manual_seed(0)
    net = EncoderDecoder(inputs, outputs, width, stages)
    images = torch.randn(5, inputs, side, side)
    net.train()(images)  # statistics of its own
    net.eval()
    found = net(images)
    assert found.shape == (5, outputs, side, side)
    torch.testing.assert_close(found, restated(net, images, stages))


def test_it_has_the_published_size() -> None:
    """32, 64, 128 channels and back; on MNIST two stages from 16."""
    counts = {outputs: parameters(EncoderDecoder(3, outputs, 32, 3)) for outputs in (3, 1)}
    assert counts == {3: 723_273, 1: 722_691}
    net = EncoderDecoder(1, 1, 16, 2)
    shapes = [
        tuple(layer.weight.shape[:2]) for layer in net.modules() if isinstance(layer, nn.Conv2d)
    ]
    assert shapes == [
        (16, 1),
        (16, 16),
        (32, 16),
        (32, 32),
        (32, 32),
        (32, 32),
        (16, 32),
        (16, 16),
        (1, 16),
    ]


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_running_statistics_move_by_a_twentieth() -> None:
    net = EncoderDecoder(1, 1, 2, 1)
    images = torch.rand(4, 1, 4, 4)
    first, norm = net.layers[0], net.layers[1]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    net.train()(images)
    torch.testing.assert_close(norm.running_mean, 0.05 * first(images).mean((0, 2, 3)))


def test_values_are_squashed_into_the_open_unit_interval() -> None:
    numbers = [-50.0, -1.0, 0.0, 0.3, 4.0]
    expected = [math.tanh(number) / (2 + 1e-7) + 0.5 for number in numbers]
    assert squashed(torch.tensor(numbers)).tolist() == pytest.approx(expected, abs=1e-6)
    assert float(squashed(torch.tensor(0.0))) == 0.5
