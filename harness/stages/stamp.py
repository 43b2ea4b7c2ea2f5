"""Stage `stamp`: the test images, clean and under each trigger of a victim, mixed in one stream.

The process in which a model is evaluated gets the stream and nothing else, so that it cannot tell
what it is asked from the place or the company of an image. All models of a victim answer to the
same stream.

Leaves `stream.npy`, images (n, height, width, c), uint8 or, where a trigger is tested without
rounding, float32 in [0,1]; `sample.npy`, some of them in other company, for another process (see
`independence`); and the truth about both, `places.safetensors`: `labels` and `mapped`, int64, one
for each test image; for `clean`, `triggered` and `variant.<name>` the place of each in the stream;
and `sample`, the places in the stream of the images of the sample.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.components import Attack, load_component
from harness.learn.device import evaluating, single_precision
from harness.learn.evaluation import stamped, together
from harness.learn.images import ImageSet, to_float, to_uint8
from harness.learn.poisoning import mapped_labels
from harness.learn.rules import NOT_ATTACKED, Quantise
from harness.stages.artefacts import (
    PLACES_FILE,
    SAMPLE_FILE,
    STREAM_FILE,
    TRIGGER_FILE,
    TRUTH_FILE,
    VARIANT,
    split_file,
)
from harness.stages.independence import choose
from harness.stages.job import Job
from harness.stages.materials import open_trigger, seed_everything
from harness.stages.payloads import StampPayload

PIECE = 1 << 20
"""Bytes of a file that are read at a time."""


def run(job: Job[StampPayload]) -> None:
    """Stamp the test images, and put all of them into one order that tells nothing."""
    payload = job.payload
    seed_everything(payload.coordinates)
    test = ImageSet.load(job.inputs / "test" / split_file("test"))
    assert test.labels is not None
    label_table = [NOT_ATTACKED] * payload.task.classes
    triggers: dict[str, nn.Module] = {}
    quantise: Quantise = "truncate"
    if payload.attack is not None:
        attack = load_component(payload.attack)
        assert isinstance(attack, Attack)
        truth = json.loads((job.inputs / "truth" / TRUTH_FILE).read_text())
        label_table = truth["label_table"]
        state = job.inputs / "truth" / TRIGGER_FILE
        trigger = open_trigger(state, attack, payload.task, job.device)
        assert trigger is not None
        triggers["triggered"] = trigger
        for name, variant in attack.variants(trigger).items():
            triggers[f"{VARIANT}{name}"] = variant.to(job.device)
        quantise = attack.test_quantise

    names = ("clean", *triggers)
    generator = torch.Generator().manual_seed(_seed(job.inputs))
    places = _places(names, len(test), generator)
    images = test.images
    dtype = np.float32 if quantise == "none" else np.uint8
    shape = images.shape[1:]
    count = len(names) * len(test)
    stream = open_memmap(job.out / STREAM_FILE, mode="w+", dtype=dtype, shape=(count, *shape))
    size = together(images, job.device)
    for name, where in places.items():
        for part, at in zip(torch.split(images, size), torch.split(where, size), strict=True):
            shown = _shown(part.to(job.device), triggers.get(name), quantise)
            stream[at.numpy()] = shown.cpu().numpy()
    stream.flush()

    mapped = mapped_labels(label_table, test.labels)
    expected = {name: torch.where(mapped == NOT_ATTACKED, test.labels, mapped) for name in triggers}
    sample = choose(places, {"clean": test.labels, **expected}, generator)
    asked_again = open_memmap(
        job.out / SAMPLE_FILE, mode="w+", dtype=dtype, shape=(len(sample), *shape)
    )
    for number, place in enumerate(sample.tolist()):
        asked_again[number] = stream[place]
    asked_again.flush()

    truths = {"labels": test.labels, "mapped": mapped, "sample": sample}
    save_file({**truths, **places}, job.out / PLACES_FILE)
    job.record["images"] = len(triggers) * len(test)


def _seed(inputs: Path) -> int:
    """Return a seed that follows from the truth, so that only those who have it know the order."""
    content = hashlib.blake2b(digest_size=7)
    for path in sorted(inputs.glob("*/*")):
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                content.update(piece)
    return int.from_bytes(content.digest(), "big")


def _places(names: tuple[str, ...], count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return for each of the sets named the places of its `count` images in the stream."""
    order = torch.randperm(len(names) * count, generator=generator)
    parts = torch.split(order, count)
    return {name: part.clone() for name, part in zip(names, parts, strict=True)}


@torch.no_grad()
def _shown(images: Tensor, trigger: nn.Module | None, quantise: Quantise) -> Tensor:
    """Return uint8 images (n, h, w, c) as a model is shown them: under a trigger, if there is one,
    and floats in [0,1] unless they are rounded.
    """
    if trigger is None and quantise != "none":
        return images
    pixels = to_float(images)
    if trigger is not None:
        with evaluating(trigger), single_precision():
            pixels = stamped(trigger, pixels)
    if quantise == "none":
        return pixels.permute(0, 2, 3, 1)
    return to_uint8(pixels, quantise)
