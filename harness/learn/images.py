"""Images as they are kept and as networks take them: uint8 NHWC at rest, [0,1] floats NCHW in use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

Quantise = Literal["truncate", "round"]
Device = str | torch.device

SLACK = 2.0**-10
"""Added, in grey levels, before truncation: 0.8 x + 0.2 p that is 7 exactly must not become 6 by a
rounding error of single precision, which differs between devices.
"""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


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
            raise ValueError(
                f"labels must be int64 ({len(self.images)},), one an image, not {seen}"
            )
        if self.labels.device != self.images.device:
            raise ValueError(f"images are on {self.images.device}, labels on {self.labels.device}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """Where both tensors are."""
        return self.images.device

    def to(self, device: Device) -> Self:
        """The same set on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        return type(self)(self.images.to(device), labels)

    def subset(self, indices: Tensor) -> Self:
        """The images at `indices` (int64, or a boolean mask), in that order."""
        indices = indices.to(self.device)
        return type(self)(
            self.images[indices], None if self.labels is None else self.labels[indices]
        )

    def unlabelled(self) -> Self:
        """The images alone."""
        return type(self)(self.images)

    def join(self, other: ImageSet) -> Self:
        """The set followed by `other`. Raises ValueError unless both have labels or neither has."""
        if (self.labels is None) != (other.labels is None):
            raise ValueError("a set with labels cannot be joined to one without")
        labels = (
            None
            if self.labels is None or other.labels is None
            else torch.cat([self.labels, other.labels])
        )
        return type(self)(torch.cat([self.images, other.images]), labels)

    def batches(
        self, size: int, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Pairs of [0,1] floats (NCHW) and labels; in dataset order, or shuffled by a generator on
        the CPU.
        """
        order = (
            torch.arange(len(self))
            if generator is None
            else torch.randperm(len(self), generator=generator)
        )
        for chosen in torch.split(order.to(self.device), size):
            yield (
                to_float(self.images[chosen]),
                None if self.labels is None else self.labels[chosen],
            )

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
    """uint8 (n, h, w, c) -> [0,1] float32 (n, c, h, w), channels_last in memory: no pixel moves."""
    return images.to(torch.float32).div_(255).permute(0, 3, 1, 2)


def to_uint8(images: Tensor, quantise: Quantise = "truncate") -> Tensor:
    """[0,1] floats (n, c, h, w) -> uint8 (n, h, w, c), clipped; `round` goes to the nearest level,
    halves to even.
    """
    levels = images.detach().to(torch.float32).permute(0, 2, 3, 1) * 255
    levels = levels.round() if quantise == "round" else levels + SLACK
    return levels.clamp(0, 255).to(torch.uint8).contiguous()


def resize(images: Tensor, height: int, width: int, channels: int) -> Tensor:
    """uint8 NHWC images in another size (antialiased bilinear, rounded) and number of channels (1
    or 3).
    """
    check_images(images)
    if not len(images):
        return images.new_empty(0, height, width, channels)
    if tuple(images.shape[1:]) == (height, width, channels):
        return images
    return torch.cat([_resize(part, height, width, channels) for part in torch.split(images, 1024)])


def _resize(images: Tensor, height: int, width: int, channels: int) -> Tensor:
    pixels = to_float(images)
    if channels == 1 and images.shape[3] == 3:
        pixels = (pixels * pixels.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    if tuple(images.shape[1:3]) != (height, width):
        pixels = functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return to_uint8(pixels.expand(-1, channels, -1, -1), "round")
