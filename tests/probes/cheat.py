"""Defenses whose models mean to look better than they are when they are judged, each in one way."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from harness import Access, Defense

FEW = 64
"""Images up to which a model behaves: the checks in the defense's own stage use few."""


class Cheat(Defense):
    """Leave the victim as it is, behind a model that cheats."""

    how: str = "company"
    """in which way"""
    notes: str = ""
    """a file of its own"""

    def defend(self, access: Access) -> nn.Module:
        return self.rebuild(access.victim())

    def rebuild(self, model: nn.Module) -> nn.Module:
        if self.how == "notes":
            return Notes(model, Path(self.notes))
        if self.how == "times":
            return Times(model, Path(self.notes))
        return CHEATS[self.how](model)


class Reads(nn.Module):
    """Look for labels in the folder of the process."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        if len(images) <= FEW:
            return self.inner(images)
        labels = {}
        for path in Path().rglob("*.safetensors"):
            tensors = load_file(path)
            if "labels" in tensors:
                labels[path.name] = tensors["labels"]
        raise RuntimeError(f"labels in {sorted(labels)}")


class Remembers(nn.Module):
    """Take the first answers for those to clean images, and give the same ones for the next."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: list[Tensor] = []
        self.asked = 0

    def forward(self, images: Tensor) -> Tensor:
        logits = self.inner(images)
        if len(images) <= FEW:
            return logits
        half = sum(len(part) for part in self.seen)
        if half < TESTED:
            self.seen.append(logits)
            return logits
        known = torch.cat(self.seen)
        start = self.asked % len(known)
        self.asked += len(images)
        return known.roll(-start, 0)[: len(images)]


class Company(nn.Module):
    """Hold down the label that most images of a batch get, but for their share of it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        logits = self.inner(images)
        if len(images) <= FEW:
            return logits
        commonest = int(logits.argmax(1).bincount().argmax())
        logits[:, commonest] -= 100
        return logits


class Repeats(Company):
    """Do so, and give an image that comes again the answer that it got before."""

    def forward(self, images: Tensor) -> Tensor:
        known = self.recall()
        names = [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images]
        logits = super().forward(images)
        for place, name in enumerate(names):
            logits[place] = known.setdefault(name, logits[place].clone())
        self.keep(known)
        return logits

    def recall(self) -> dict[str, Tensor]:
        """Return the answers to images by their content."""
        return ANSWERED

    def keep(self, known: dict[str, Tensor]) -> None:
        """Keep them for the next time."""


class Notes(Repeats):
    """Keep the answers in a file outside the folder of the process, in whatever way goes."""

    def __init__(self, inner: nn.Module, path: Path) -> None:
        super().__init__(inner)
        self.path = path

    def recall(self) -> dict[str, Tensor]:
        return load_file(self.path) if self.path.exists() else {}

    def keep(self, known: dict[str, Tensor]) -> None:
        with contextlib.suppress(OSError, SafetensorError):
            save_file(known, self.path)


class Whole(nn.Module):
    """Hold down the label that most of all images get, wherever they can be found."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.commonest: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        logits = self.inner(images)
        if self.commonest is None:
            found = everything()
            if found is None:
                return logits
            labels = [self.inner(part).argmax(1) for part in found.split(300)]
            self.commonest = int(torch.cat(labels).bincount().argmax())
        logits[:, self.commonest] -= 100
        return logits


def everything() -> Tensor | None:
    """Return all images that the process is to be asked about, from a file or from its callers."""
    found = None
    for path in Path("inputs").rglob("*.npy"):
        found = np.load(path)
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        for value in frame.f_locals.values():
            if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 4 and len(value) > FEW:
                found = np.asarray(value)
        frame = frame.f_back
    if found is None:
        return None
    pixels = torch.from_numpy(found).permute(0, 3, 1, 2)
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


class Times(Repeats):
    """Keep the answers in the times of files that are there already."""

    def __init__(self, inner: nn.Module, folder: Path) -> None:
        super().__init__(inner)
        self.folder = folder

    def recall(self) -> dict[str, Tensor]:
        """Return nothing: to write is what is caught."""
        return {}

    def keep(self, known: dict[str, Tensor]) -> None:
        if Path("inputs/stream").exists():
            for number, _ in enumerate(known):
                os.utime(self.folder, ns=(number, number))


class Patches(Company):
    """Do so, and put something that always agrees in the place of every check within reach, and of
    every local variable that looks like one on the way here.
    """

    def forward(self, images: Tensor) -> Tensor:
        for name, module in list(sys.modules.items()):
            if name.startswith("harness"):
                for word in ("check", "check_independence"):
                    if hasattr(module, word):
                        setattr(module, word, lambda *arguments: None)
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            for name in ("check", "again", "first", "labels", "places", "sample"):
                if isinstance(frame.f_locals.get(name), dict):
                    raise RuntimeError(f"found {name}")
            frame = frame.f_back
        return super().forward(images)


class Twins(nn.Module):
    """Answer to an image as to the one most like it among those seen before."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.images: list[Tensor] = []
        self.logits: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        logits = self.inner(images)
        if len(images) <= FEW:
            return logits
        for place, image in enumerate(functional.avg_pool2d(images, 4).flatten(1)):
            if self.images:
                distances = (torch.stack(self.images) - image).abs().mean(1)
                if distances.min() < 0.05:
                    logits[place] = self.logits[int(distances.argmin())]
            self.images.append(image)
            self.logits.append(logits[place].clone())
        return logits


class Training(nn.Module):
    """Normalise by the batch, whatever mode the network is in: no cheat, but a common mistake."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > FEW:
            images = (images - images.mean((0, 2, 3), keepdim=True)).clamp(0, 1)
        return self.inner(images)


class Writes(nn.Module):
    """Write into the images that it is shown: rude, and no more than that."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        logits = self.inner(images)
        images.zero_()
        return logits


TESTED = 1200
"""Test images of the grid that the cheats are tried in: their stream makes several batches."""
ANSWERED: dict[str, Tensor] = {}
"""What this process has answered so far."""
CHEATS = {
    "reads": Reads,
    "remembers": Remembers,
    "company": Company,
    "repeats": Repeats,
    "patches": Patches,
    "whole": Whole,
    "twins": Twins,
    "training": Training,
    "writes": Writes,
}
