"""Images at rest (uint8 NHWC) and as networks take them ([0,1] floats NCHW)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

Rounding = Literal["truncate", "round"]
Device = str | torch.device

SLACK = 2.0**-10
"""Added, in grey levels, before truncation: 0.8 x + 0.2 p that is 7 exactly must not become 6 by a
rounding error of single precision, which differs between devices.
"""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""
RESIZED = 2**20
"""Pixels that are resized together, 1,024 images of 32 x 32."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """`images`: uint8 (n, height, width, channels); `labels`: int64 (n,), or None. Both on one
    device.

    Raises ValueError where they are anything else.
    """

    images: Tensor
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        check_images(self.images)
        if self.labels is None:
            return
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            seen = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            count = len(self.images)
            raise ValueError(f"labels must be int64 ({count},), one for each image, not {seen}")
        if self.labels.device != self.images.device:
            raise ValueError(f"images are on {self.images.device}, labels on {self.labels.device}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """The device of both tensors."""
        return self.images.device

    def to(self, device: Device) -> Self:
        """Return the same set on another device."""
        images = self.images.to(device)
        if self.labels is None:
            return type(self)(images)
        return type(self)(images, self.labels.to(device))

    def subset(self, indices: Tensor) -> Self:
        """Return the images at `indices` (int64, or a boolean mask), in that order."""
        indices = indices.to(self.device)
        images = self.images[indices]
        if self.labels is None:
            return type(self)(images)
        return type(self)(images, self.labels[indices])

    def unlabelled(self) -> Self:
        """Return the images alone."""
        return type(self)(self.images)

    def join(self, other: ImageSet) -> Self:
        """Return the set followed by `other`. Raises ValueError unless both have labels or neither
        has.
        """
        if (self.labels is None) != (other.labels is None):
            raise ValueError("a set with labels cannot be joined to one without")
        images = torch.cat([self.images, other.images])
        if self.labels is None or other.labels is None:
            return type(self)(images)
        labels = torch.cat([self.labels, other.labels])
        return type(self)(images, labels)

    def batches(
        self, size: int, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield pairs of [0,1] floats (NCHW) and labels; in dataset order, or shuffled by a
        generator on the CPU.
        """
        if generator is None:
            order = torch.arange(len(self))
        else:
            order = torch.randperm(len(self), generator=generator)
        for chosen in torch.split(order.to(self.device), size):
            images = to_float(self.images[chosen])
            labels = None if self.labels is None else self.labels[chosen]
            yield images, labels

    def save(self, path: Path) -> None:
        """Write a safetensors file with `images` and, where there are any, `labels`."""
        tensors = {"images": self.images.cpu().contiguous()}
        if self.labels is not None:
            tensors["labels"] = self.labels.cpu().contiguous()
        save_file(tensors, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote, onto the CPU."""
        tensors = load_file(path)
        return cls(tensors["images"], tensors.get("labels"))


def check_images(images: Tensor) -> None:
    """Raise ValueError unless these are uint8 images (n, height, width, 1 or 3)."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        seen = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"images must be uint8 (n, height, width, 1 or 3), not {seen}")


def to_float(images: Tensor) -> Tensor:
    """Turn uint8 (n, h, w, c) into [0,1] float32 (n, c, h, w), channels_last in memory: no pixel
    moves.
    """
    pixels = images.to(torch.float32).div_(255)
    return pixels.permute(0, 3, 1, 2)


def to_uint8(images: Tensor, quantise: Rounding = "truncate") -> Tensor:
    """Turn [0,1] floats (n, c, h, w) into uint8 (n, h, w, c), clipped; `round` goes to the nearest
    level, halves to even.
    """
    pixels = images.detach().to(torch.float32)
    levels = pixels.permute(0, 2, 3, 1) * 255
    if quantise == "round":
        levels = levels.round()
    else:
        levels = levels + SLACK
    return levels.clamp(0, 255).to(torch.uint8).contiguous()


def resize(images: Tensor, height: int, width: int, channels: int) -> Tensor:
    """Return uint8 NHWC images in another size (antialiased bilinear, rounded) and number of
    channels (1 or 3).
    """
    check_images(images)
    if not len(images):
        return images.new_empty(0, height, width, channels)
    if tuple(images.shape[1:]) == (height, width, channels):
        return images
    pixels = max(images.shape[1] * images.shape[2], height * width)
    parts = torch.split(images, max(1, RESIZED // pixels))
    return torch.cat([_resize(part, height, width, channels) for part in parts])


def _resize(images: Tensor, height: int, width: int, channels: int) -> Tensor:
    pixels = to_float(images)
    if channels == 1 and images.shape[3] == 3:
        weights = pixels.new_tensor(LUMA).view(1, 3, 1, 1)
        pixels = (pixels * weights).sum(1, keepdim=True)
    if tuple(images.shape[1:3]) != (height, width):
        pixels = functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return to_uint8(pixels.expand(-1, channels, -1, -1), "round")
