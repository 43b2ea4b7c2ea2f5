"""A small U-Net, and padded convolutions for the networks that come with it. Tensors are NCHW."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

Padding = Literal["same", "port"]
WIDTHS = (32, 32, 64, 128, 256)
"""Channels on the way down, at full size and after each halving (Tancik et al. 2020)."""


class PaddedConv(nn.Conv2d):
    """Convolution with ceil(size / stride) outputs a side, in one of two paddings.

    `same` pads as much as the outputs need, as TensorFlow does; `port` pads kernel - 1 in all,
    whatever the stride, as ports to PyTorch do. Both put the odd pixel behind. They differ where a
    3x3 convolution strides over an even size: `port` starts one pixel earlier.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: Padding = "same"
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride)
        self.style = padding

    def around(self, size: int) -> tuple[int, int]:
        """Return the pixels to pad before and behind a side of `size`."""
        kernel = self.kernel_size[0]
        stride = self.stride[0]
        total = kernel - 1
        if self.style == "same":
            outputs = -(-size // stride)
            needed = (outputs - 1) * stride + kernel
            total = max(0, needed - size)
        before = total // 2
        return before, total - before

    def forward(self, images: Tensor) -> Tensor:
        """Turn (n, inputs, h, w) into (n, outputs, ceil(h / stride), ceil(w / stride))."""
        height, width = images.shape[2:]
        top, bottom = self.around(height)
        left, right = self.around(width)
        # padding that both ends have in common is the convolution's, which needs no copy of images
        rows = min(top, bottom)
        columns = min(left, right)
        if bottom != top or right != left:
            rest = (left - columns, right - columns, top - rows, bottom - rows)
            images = functional.pad(images, rest)
        return functional.conv2d(images, self.weight, self.bias, self.stride, (rows, columns))


class Rise(nn.Module):
    """One step up: double the size, and join with the maps of the way down.

    Nearest neighbours, a 2x2 convolution, the join, a 3x3 convolution.
    """

    def __init__(self, inputs: int, skipped: int, outputs: int, padding: Padding) -> None:
        super().__init__()
        self.lift = PaddedConv(inputs, outputs, 2, padding=padding)
        self.merge = PaddedConv(skipped + outputs, outputs, 3, padding=padding)

    def forward(self, deep: Tensor, skip: Tensor, rest: Sequence[Tensor] = ()) -> Tensor:
        """Join (n, inputs, h, w) with maps of twice the size, to (n, outputs, 2h, 2w).

        `rest` is joined last.
        """
        doubled = functional.interpolate(deep, scale_factor=2)
        lifted = functional.relu(self.lift(doubled))
        joined = torch.cat([skip, lifted, *rest], 1)
        return functional.relu(self.merge(joined))


class UNet(nn.Module):
    """Strided 3x3 convolutions down, `Rise` up; the last join has the input in it too.

    The output is linear. Sides must be multiples of `multiple`.
    """

    def __init__(
        self, inputs: int, outputs: int, widths: Sequence[int] = WIDTHS, padding: Padding = "same"
    ) -> None:
        super().__init__()
        halvings = len(widths) - 1
        self.multiple = 2**halvings
        self.down = nn.ModuleList([PaddedConv(inputs, widths[0], 3, 1, padding)])
        for flat, deep in pairwise(widths):
            self.down.append(PaddedConv(flat, deep, 3, 2, padding))
        self.up = nn.ModuleList()
        for level in range(halvings, 0, -1):
            flat = widths[level - 1]
            skipped = flat
            if level == 1:
                skipped += inputs
            self.up.append(Rise(widths[level], skipped, flat, padding))
        self.out = PaddedConv(widths[0], outputs, 1, padding=padding)

    def forward(self, images: Tensor) -> Tensor:
        """Turn (n, inputs, h, w) into (n, outputs, h, w)."""
        skips = [images]
        for conv in self.down:
            values = functional.relu(conv(skips[-1]))
            skips.append(values)
        values = skips.pop()
        for rise in self.up:
            skip = skips.pop()
            rest: list[Tensor] = []
            if len(skips) == 1:  # the last step
                rest = [images]
            values = rise(values, skip, rest)
        return cast(Tensor, self.out(values))
