"""The classification problem that a model is trained for. No torch here: plans name it too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """The classification problem, as far as everybody may know it.

    `height`, `width` in pixels, `channels` 1 or 3; images outside models are [0,1] floats (NCHW) or
    uint8 (NHWC). `train_count` is the number of training images that a victim sees. `mirrors` tells
    whether a mirrored image is one of the same class, which signs and digits are not.
    """

    dataset: str
    classes: int
    height: int
    width: int
    channels: int
    train_count: int
    mirrors: bool = True

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.height, self.width
