"""Pictures that a user brings for a trigger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness import Task
from harness.learn import resize, to_float


def read_picture(path: Path) -> Tensor:
    """Read a picture as uint8 (height, width, channels), channels 1 or 3.

    The file is an .npy file, or of any format that Pillow reads. Raises ValueError where it holds
    no such picture. Arrays of Python objects are never unpickled.
    """
    try:
        pixels = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _decoded(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}: no picture ({error}); expected: an .npy file or one that Pillow can read"
        ) from None
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    coloured = pixels.ndim == 3 and pixels.shape[2] in (1, 3)
    if pixels.dtype != np.uint8 or not coloured or not pixels.size:
        seen = f"{pixels.dtype} {tuple(pixels.shape)}"
        raise ValueError(
            f"{path}: a picture is uint8, (height, width) or (height, width, 1 or 3), not {seen}"
        )
    # a copy, for a file's pixels may be read-only
    return torch.from_numpy(np.array(pixels))


def picture_for(task: Task, path: Path) -> Tensor:
    """Read a picture in the size and channels of a task: [0,1] float32 (channels, height, width).

    Raises ValueError where the file holds no picture.
    """
    levels = read_picture(path)
    batch = resize(levels[None], task.height, task.width, task.channels)
    return to_float(batch)[0]


def _decoded(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        if picture.mode[0] in "IF":  # what is above 255 would be cut off, and the picture white
            raise ValueError(f"its grey levels are no bytes but of mode {picture.mode}")
        grey = picture.mode in ("1", "L")
        return np.asarray(picture.convert("L" if grey else "RGB"))
