"""Files that grids read, mutated: arrays, weights, pictures; and the grid that reads them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.soak import mutate
from tests.kit.damage import make_special

COUNT = 8
"""Mutated files of a step."""
SPECIAL = ("fifo", "folder", "socket", "/dev/zero", "/nowhere")
CLASSES = 3
HEAD = """
[[model]]
name = "small-cnn"
width = 2
[[defense]]
name = "none"
[training]
epochs = 1
batch = 16
[[metric]]
name = "acc"
[[metric]]
name = "asr"
"""
DATASET = '[[dataset]]\nname = "npz"\nas = "{label}"\npath = "{file}"\npool = 4\n'
CLEAN = '[[attack]]\nname = "pretrained-clean"\nas = "{label}"\nweights = "{file}"\n'
PATCH = (
    '[[attack]]\nname = "pretrained"\nas = "{label}"\nweights = "weights.safetensors"\n'
    'attack = {{name = "patch", picture = "picture.png", mask = "mask.npy", %s = "{file}"}}\n'
)
READING = {
    "an array of pictures": ("npz", DATASET),
    "weights in safetensors": ("safetensors", CLEAN),
    "weights in npz": ("weights.npz", CLEAN),
    "weights of torch.save": ("pt", CLEAN),
    "a picture": ("png", PATCH.replace('picture = "picture.png", ', "") % "picture"),
    "a mask": ("npy", PATCH.replace(', mask = "mask.npy"', "") % "mask"),
    "a picture to blend in": (
        "png",
        '[[attack]]\nname = "blend"\nas = "{label}"\npicture = "{file}"\n',
    ),
}
"""Kinds of files: how their names end, and the entry that reads one."""
SOUND_DATA = DATASET.format(label="sound data", file="sound.npz")
SOUND_ATTACK = '[[attack]]\nname = "badnets"\nas = "sound attack"\n'


@dataclass(frozen=True)
class Reader:
    """An entry that reads a file."""

    what: str
    label: str
    file: str

    @property
    def entry(self) -> str:
        """The entry, as text."""
        return READING[self.what][1].format(label=self.label, file=self.file)


def mutated(draw: Random, folder: Path) -> list[Reader]:
    """Write sound files and mutated ones to a folder, and return who reads the latter."""
    sound = sound_files()
    for name in ("sound.npz", "weights.safetensors", "picture.png", "mask.npy"):
        (folder / name).write_bytes(sound[name.removeprefix("sound.")])
    readers = []
    for number in range(COUNT):
        what = draw.choice(sorted(READING))
        end = READING[what][0]
        reader = Reader(what, f"reader {number}", f"altered{number}.{end}")
        path = folder / reader.file
        if draw.random() < 0.1:
            make_special(path, draw.choice(SPECIAL))
        else:
            path.write_bytes(mutate.content(draw, sound[_sound_name(end)]))
        readers.append(reader)
    return readers


def _sound_name(end: str) -> str:
    names = {
        "npz": "npz",
        "safetensors": "weights.safetensors",
        "weights.npz": "weights.npz",
        "pt": "weights.pt",
        "png": "picture.png",
        "npy": "mask.npy",
    }
    return names[end]


def sound_files() -> dict[str, bytes]:
    """Return the content of sound files, by name."""
    import torch
    from PIL import Image
    from safetensors.torch import save

    from harness import Task
    from plugins.models.small_cnn import SmallCNN

    drawn = np.random.default_rng(0)
    images = drawn.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(40) % CLASSES
    arrays = {
        "train_images": images[:30],
        "train_labels": labels[:30],
        "test_images": images[30:],
        "test_labels": labels[30:],
    }
    net = SmallCNN(width=2).build(Task("npz", CLASSES, 16, 16, 3, 30))
    state = {name: value.detach().contiguous() for name, value in net.state_dict().items()}
    torch_file = io.BytesIO()
    torch.save(state, torch_file)
    picture = io.BytesIO()
    Image.fromarray(images[0]).save(picture, "PNG")
    mask = io.BytesIO()
    np.save(mask, np.full((16, 16), 255, np.uint8))
    return {
        "npz": _archive(arrays),
        "weights.safetensors": save(state),
        "weights.npz": _archive({name: value.numpy() for name, value in state.items()}),
        "weights.pt": torch_file.getvalue(),
        "picture.png": picture.getvalue(),
        "mask.npy": mask.getvalue(),
    }


def _archive(arrays: Mapping[str, Any]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def grid(readers: list[Reader]) -> str:
    """Write a grid with these readers and some that read sound files."""
    entries = "".join(reader.entry for reader in readers)
    return HEAD + SOUND_DATA + SOUND_ATTACK + entries
