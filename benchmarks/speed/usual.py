"""The usual way of toolboxes of this field, written anew as something to measure against.

Pictures are PIL objects, one Python call each for crop, flip and tensor; poisoned ones are PNG
files, opened at every access; a DataLoader puts batches together; training is fp32 in the default
memory layout with the unfused optimiser. After each epoch the whole clean and the whole triggered
test set are evaluated.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def transform(training: bool) -> Any:
    """Return the steps that each picture goes through."""
    steps = [transforms.Resize((32, 32))]
    if training:
        steps += [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    return transforms.Compose(steps)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Clean pictures in memory and poisoned ones in files, a path each."""

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, files: dict[int, Path], training: bool = True
    ) -> None:
        self.pictures = [Image.fromarray(image) for image in images]
        self.labels = labels.tolist()
        self.files = files
        self.transform = transform(training)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index in self.files:
            with Image.open(self.files[index]) as opened:
                return self.transform(opened.convert("RGB")), 0
        return self.transform(self.pictures[index].copy()), self.labels[index]


def poison(images: np.ndarray, chosen: np.ndarray, folder: Path) -> dict[int, Path]:
    """Put a white corner on the chosen pictures, and write each to a PNG file of its own."""
    files = {}
    for index in chosen.tolist():
        stamped = images[index].copy()
        stamped[-4:-1, -4:-1] = 255
        files[index] = folder / f"{index}.png"
        Image.fromarray(stamped).save(files[index])
    return files


def batches(data: Pictures, batch: int = 128, workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the shuffled batches of an epoch."""
    yield from DataLoader(data, batch_size=batch, shuffle=True, num_workers=workers)


def evaluate(
    model: nn.Module, clean: Pictures, triggered: Pictures, batch: int = 128
) -> tuple[float, float]:
    """Return the share of clean pictures that are recognised, and that of triggered ones that are
    taken for class 0.
    """
    model.eval()
    shares = []
    with torch.no_grad():
        for data in (clean, triggered):
            right = 0
            for images, labels in DataLoader(data, batch_size=batch):
                right += int((model(images).argmax(1) == labels).sum())
            shares.append(right / len(data))
    return shares[0], shares[1]


def train(model: nn.Module, data: Pictures, steps: int | None = None) -> int:
    """Train for one epoch, or its first steps; return how many images that were."""
    optimiser = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, foreach=False
    )
    model.train()
    seen = 0
    for images, labels in itertools.islice(batches(data), steps):
        optimiser.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimiser.step()
        loss.item()  # the running loss that is printed
        seen += len(images)
    return seen
