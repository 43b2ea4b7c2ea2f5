"""A small U-Net, and the padded convolutions of the networks that come with it. Tensors are NCHW."""

from __future__ import annotations

from collections.abc import Sequence
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
        """Pixels before and behind a side of `size`."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = kernel - 1
        if self.style == "same":
            total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        return total // 2, total - total // 2

    def forward(self, images: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, ceil(h / stride), ceil(w / stride))."""
        (top, bottom), (left, right) = (self.around(size) for size in images.shape[2:])
        both = min(top, bottom), min(left, right)
        if (
            bottom != top or right != left
        ):  # the rest is common to both ends, which needs no copy of the images
            images = functional.pad(
                images, (left - both[1], right - both[1], top - both[0], bottom - both[0])
            )
        return functional.conv2d(images, self.weight, self.bias, self.stride, both)


class Rise(nn.Module):
    """One step up: double the size (nearest), 2x2 convolution, join with what was there on the way
    down, convolve.
    """

    def __init__(self, inputs: int, skipped: int, outputs: int, padding: Padding) -> None:
        super().__init__()
        self.lift = PaddedConv(inputs, outputs, 2, padding=padding)
        self.merge = PaddedConv(skipped + outputs, outputs, 3, padding=padding)

    def forward(self, deep: Tensor, skip: Tensor, rest: Sequence[Tensor] = ()) -> Tensor:
        """(n, inputs, h, w) with maps of twice the size to (n, outputs, 2h, 2w); `rest` is joined
        last.
        """
        lifted = functional.relu(self.lift(functional.interpolate(deep, scale_factor=2)))
        return functional.relu(self.merge(torch.cat([skip, lifted, *rest], 1)))


class UNet(nn.Module):
    """Strided 3x3 convolutions down, `Rise` up; the last join has the input in it too. The output
    is linear.

    Sides must be multiples of `multiple`.
    """

    def __init__(
        self, inputs: int, outputs: int, widths: Sequence[int] = WIDTHS, padding: Padding = "same"
    ) -> None:
        super().__init__()
        self.multiple = 2 ** (len(widths) - 1)
        strides = (1, *(2 for _ in widths[1:]))
        self.down = nn.ModuleList(
            PaddedConv(before, after, 3, stride, padding)
            for before, after, stride in zip((inputs, *widths), widths, strides, strict=False)
        )
        steps = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(
            Rise(deep, flat + (inputs if number == len(steps) else 0), flat, padding)
            for number, (deep, flat) in enumerate(steps, start=1)
        )
        self.out = PaddedConv(widths[0], outputs, 1, padding=padding)

    def forward(self, images: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h, w)."""
        skips = [images]
        for conv in self.down:
            skips.append(functional.relu(conv(skips[-1])))
        found = skips.pop()
        for rise in self.up:
            skip = skips.pop()
            found = rise(found, skip, skips if len(skips) == 1 else ())
        return cast(Tensor, self.out(found))
