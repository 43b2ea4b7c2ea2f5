from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from plugins.parts.unet import PaddedConv, Padding, UNet

pytestmark = pytest.mark.usefixtures("one_thread")


def convolved(
    image: np.ndarray, weight: np.ndarray, bias: float, stride: int, padding: Padding
) -> np.ndarray:
    """One channel in, one out, entry by entry: output k looks at the inputs from k * stride -
    before on.
    """
    size, kernel = image.shape[0], weight.shape[0]
    count = math.ceil(size / stride)
    missing = max(0, (count - 1) * stride + kernel - size) if padding == "same" else kernel - 1
    before = missing // 2
    found = np.full((count, count), bias)
    for row in range(count):
        for column in range(count):
            for down in range(kernel):
                for right in range(kernel):
                    y, x = row * stride - before + down, column * stride - before + right
                    if 0 <= y < size and 0 <= x < size:
                        found[row, column] += weight[down, right] * image[y, x]
    return found


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 9),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2]),
    st.sampled_from(["same", "port"]),
    st.data(),
)
def test_padding_restated_entry_by_entry(
    size: int, kernel: int, stride: int, padding: Padding, data: st.DataObject
) -> None:
    if kernel < stride:
        return  # nobody has such layers, and "same" would cut there
    drawn = np.random.default_rng(data.draw(st.integers(0, 1000)))
    image, weight = drawn.random((size, size)), drawn.random((kernel, kernel))
    conv = PaddedConv(1, 1, kernel, stride, padding).double()
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(weight))
        conv.bias.fill_(0.25)
        found = conv(torch.from_numpy(image)[None, None])
    np.testing.assert_allclose(
        found[0, 0], convolved(image, weight, 0.25, stride, padding), atol=1e-12
    )


def test_the_paddings_differ_by_a_pixel_where_a_layer_strides() -> None:
    same, port = PaddedConv(1, 1, 3, 2, "same"), PaddedConv(1, 1, 3, 2, "port")
    port.load_state_dict(same.state_dict())
    image = torch.rand(1, 1, 9, 9)
    torch.testing.assert_close(
        port(image[:, :, :8, :8])[:, :, 1:, 1:], same(image[:, :, 1:, 1:])[:, :, :3, :3]
    )


def straight(net: UNet, image: Tensor) -> Tensor:
    """The published network with three levels, written out line by line, with padding as in
    TensorFlow.
    """
    state = net.state_dict()

    def conv(name: str, value: Tensor, pad: tuple[int, int], stride: int = 1) -> Tensor:
        value = functional.pad(value, (*pad, *pad))
        return functional.conv2d(value, state[f"{name}.weight"], state[f"{name}.bias"], stride)

    def doubled(value: Tensor) -> Tensor:
        return value.repeat_interleave(2, 2).repeat_interleave(2, 3)

    conv1 = conv("down.0", image, (1, 1)).relu()
    conv2 = conv("down.1", conv1, (0, 1), 2).relu()
    conv3 = conv("down.2", conv2, (0, 1), 2).relu()
    up4 = conv("up.0.lift", doubled(conv3), (0, 1)).relu()
    conv4 = conv("up.0.merge", torch.cat([conv2, up4], 1), (1, 1)).relu()
    up5 = conv("up.1.lift", doubled(conv4), (0, 1)).relu()
    conv5 = conv("up.1.merge", torch.cat([conv1, up5, image], 1), (1, 1)).relu()
    return conv("out", conv5, (0, 0))


def test_the_network_restated_line_by_line() -> None:
    torch.manual_seed(0)
    net, image = UNet(4, 2, widths=(3, 5, 7)).double(), torch.rand(2, 4, 12, 8, dtype=torch.float64)
    assert net.multiple == 4
    torch.testing.assert_close(net(image), straight(net, image))


@pytest.mark.parametrize("padding", ["same", "port"])
def test_sizes_come_back(padding: Padding) -> None:
    net = UNet(6, 3, padding=padding)
    assert net(torch.rand(1, 6, 16, 32)).shape == (1, 3, 16, 32)
    with pytest.raises(RuntimeError, match="size"):
        net(torch.rand(1, 6, 20, 20))
