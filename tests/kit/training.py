"""A small network, pictures for it, and runs of `fit` on them, for tests of training itself."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from harness.learn.hooks import Hooks
from harness.learn.images import ImageSet
from harness.learn.recipes import Recipe
from harness.learn.training import fit

QUICK = Recipe(epochs=2, batch=16, lr=0.05, precision="fp32")
FULL = QUICK.replace(precision="bf16", crop=2, flip=True, rotation=10.0, cutout=3)
"""Every kind of augmentation."""
LONG = QUICK.replace(
    epochs=3, schedule="cosine", update="step", crop=2, flip=True, nesterov=True, clip_norm=0.5
)
"""Steps enough to be recorded, and a rate that moves with each."""


def streams(name: str) -> torch.Generator:
    """Return a generator for a stream that `fit` draws from."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest())
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 70, seed: int = 0) -> ImageSet:
    """Draw three classes of noise, told apart by their brightest channel."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    images = torch.randint(128, (count, 8, 8, 3), dtype=torch.uint8, generator=generator)
    images[torch.arange(count), :, :, labels] += 100
    return ImageSet(images, labels)


def network(dropout: float = 0.0) -> nn.Sequential:
    """Build a network for the pictures, with the same weights at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(6, 3),
        )


def trained(
    recipe: Recipe = QUICK, hooks: Hooks | None = None, data: ImageSet | None = None
) -> nn.Module:
    """Train a new network on the pictures, or on `data`."""
    model = network()
    fit(model, data or pictures(), recipe, generator=streams, hooks=hooks)
    return model


def digest(model: nn.Module) -> str:
    """Return a digest of the bits of a network's state."""
    state = b"".join(
        value.detach().contiguous().numpy().tobytes() for value in model.state_dict().values()
    )
    return hashlib.sha256(state).hexdigest()
