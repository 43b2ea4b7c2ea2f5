"""Pictures that a user brings for a trigger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness import Task
from harness.learn import resize, to_float
from plugins.parts.decoding import decode


def read_picture(path: Path) -> Tensor:
    """Read a picture as uint8 (height, width, channels), channels 1 or 3.

    The file is an .npy file, or of any format that Pillow reads. Raises ValueError, naming the
    file, where it holds no such picture. Arrays of Python objects are never unpickled.
    """
    pixels = _loaded(path) if path.suffix == ".npy" else np.asarray(decode(path))
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

    Raises ValueError where the file holds no picture, or one whose levels are 0 and 1: those of a
    file go to 255.
    """
    levels = read_picture(path)
    if levels.max() == 1:
        raise ValueError(
            f"{path}: its levels are 0 and 1, where 255 is white or covers; multiply them by 255"
        )
    batch = resize(levels[None], task.height, task.width, task.channels)
    return to_float(batch)[0]


def _loaded(path: Path) -> np.ndarray:
    try:
        pixels: np.ndarray = np.load(path, allow_pickle=False)
    except Exception as error:
        # NumPy, its tokenizer and the file system each have their own for a damaged file.
        raise ValueError(
            f"{path}: no picture ({error}); expected: an .npy file or one that Pillow can read"
        ) from None
    return pixels
