"""Layers that several of the built-in networks use. Tensors are NCHW."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.nn import functional


class GlobalMax(nn.Module):
    """Largest value of each channel, (n, c, h, w) -> (n, c, 1, 1).

    Not AdaptiveMaxPool2d: that has no deterministic backward pass on CUDA and is slower.
    """

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return images.amax((2, 3), keepdim=True)


class GlobalMean(nn.Module):
    """Mean of each channel, (n, c, h, w) -> (n, c, 1, 1)."""

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return images.mean((2, 3), keepdim=True)


class Conv3x3(nn.Conv2d):
    """3x3 convolution that keeps the size (stride 1) or halves it (stride 2, rounded up).

    `trailing` pads a strided convolution at the bottom and right only, as TensorFlow's "same" does
    for even sizes.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, bias: bool = False, trailing: bool = False
    ) -> None:
        self.trailing = trailing and stride == 2
        padding = 0 if self.trailing else 1
        super().__init__(inputs, outputs, 3, stride=stride, padding=padding, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, ceil(h / stride), ceil(w / stride))."""
        if self.trailing:
            height, width = images.shape[2:]
            # An odd size needs one row on either side, an even size only the trailing one.
            images = functional.pad(images, (width % 2, 1, height % 2, 1))
        return super().forward(images)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, activated after the sum (He et al., 1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = Conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, images: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride), non-negative."""
        inner = self.conv1(images)
        inner = functional.relu(self.bn1(inner))
        inner = self.bn2(self.conv2(inner))
        return functional.relu(inner + self.shortcut(images))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with a shortcut (He et al. 2015).

    The last convolution has four times the channels. The 3x3 convolution strides, as in
    torchvision.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = Conv3x3(inner, inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, images: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride), non-negative."""
        inner = self.conv1(images)
        inner = functional.relu(self.bn1(inner))
        inner = self.conv2(inner)
        inner = functional.relu(self.bn2(inner))
        inner = self.bn3(self.conv3(inner))
        return functional.relu(inner + self.shortcut(images))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return the identity, or a 1x1 convolution with BatchNorm where the block changes the size."""
    layers = nn.Sequential()
    if stride != 1 or inputs != outputs:
        layers.append(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False))
        layers.append(nn.BatchNorm2d(outputs))
    return layers


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each after BatchNorm and ReLU (He et al. 2016, arXiv 1603.05027).

    Where the size changes, a 1x1 convolution of the activated input is the shortcut; elsewhere the
    input itself is. `bias` and `trailing` are those of the convolutions; `slope` is the
    activation's below zero.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        bias: bool = True,
        trailing: bool = True,
        slope: float = 0.0,
    ) -> None:
        super().__init__()
        self.slope = slope
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = Conv3x3(inputs, outputs, stride, bias=bias, trailing=trailing)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = Conv3x3(outputs, outputs, bias=bias)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride), signed."""
        active = self._activated(self.bn1(images))
        inner: Tensor = self.conv1(active)
        inner = self._activated(self.bn2(inner))
        inner = self.conv2(inner)
        if self.shortcut is None:
            return inner + images
        projected: Tensor = self.shortcut(active)
        return inner + projected

    def _activated(self, images: Tensor) -> Tensor:
        if self.slope == 0:
            return functional.relu(images)
        return functional.leaky_relu(images, self.slope)


class PointwiseLinear(nn.Linear):
    """A linear layer over the channels of every pixel: a 1x1 convolution.

    It maps (n, inputs, h, w) to (n, outputs, h, w).
    """

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        pixels = images.movedim(1, -1)
        return super().forward(pixels).movedim(-1, 1)


def row(
    block: Callable[[int, int, int], nn.Module], inputs: int, outputs: int, stride: int, count: int
) -> nn.Sequential:
    """Return a stage of `count` residual blocks, made by `block(inputs, outputs, stride)`.

    The first of them strides.
    """
    stage = nn.Sequential(block(inputs, outputs, stride))
    for _ in range(count - 1):
        stage.append(block(outputs, outputs, 1))
    return stage


def assemble(parts: Mapping[str, nn.Module], features: int, classes: int) -> nn.Sequential:
    """Put the parts in order, then `flatten` and the linear layer `head`.

    `parts` give `features` numbers an image; the network maps images to (n, classes) logits.
    Convolutions start as `initialise` says.
    """
    net = nn.Sequential()
    for name, part in parts.items():
        net.add_module(name, part)
    net.add_module("flatten", nn.Flatten())
    net.add_module("head", nn.Linear(features, classes))
    initialise(net)
    return net


def initialise(net: nn.Module) -> None:
    """Draw the weights of convolutions as He et al. (2015) say; their biases are 0."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
