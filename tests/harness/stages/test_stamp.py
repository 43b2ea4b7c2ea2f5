"""The stream holds each test image once for each trigger, as a model is to be shown it, and its
order tells nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from harness import TargetedAttack
from harness.access.context import Coordinates
from harness.components import Task
from harness.components.spec import ComponentSpec
from harness.learn.images import ImageSet
from harness.learn.rules import Quantise
from harness.learn.weights import save_state
from harness.stages import stamp
from harness.stages.payloads import StampPayload
from tests.kit.numbered import job

TASK = Task("noise", classes=3, height=4, width=5, channels=3, train_count=0)
COUNT = 30


class Scale(nn.Module):
    """Multiply images by a number that is its state."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.register_buffer("by", torch.tensor(by))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.by


class Darken(TargetedAttack):
    quantise: Quantise = "truncate"

    @property
    def test_quantise(self) -> Quantise:
        return self.quantise

    def trigger(self, task: Task) -> nn.Module:
        return Scale(0.0)

    def variants(self, trigger: nn.Module) -> Mapping[str, nn.Module]:
        return {"deep": Scale(0.103)}


def images() -> ImageSet:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(256, (COUNT, 4, 5, 3), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.arange(COUNT) % TASK.classes)


def stamped(
    folder: Path, attack: Darken | None, by: float = 0.377
) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
    """Return the stream and what is known of it; the attack's trigger multiplies by `by`."""
    for name in ("inputs/test", "inputs/truth", "out"):
        (folder / name).mkdir(parents=True)
    images().save(folder / "inputs/test/test.safetensors")
    spec = None
    if attack is not None:
        spec = ComponentSpec(f"{__name__}:Darken", attack.model_dump(mode="json"))
        save_state(Scale(by), folder / "inputs/truth/trigger.safetensors")
        truth = {"label_table": [0, 0, -1], "record": {}}
        (folder / "inputs/truth/truth.json").write_text(json.dumps(truth))
    here = Coordinates(None, "noise", "stamp", "darken")
    stamp.run(job(folder / "out", StampPayload(TASK, here, spec), folder / "inputs"))
    stream = np.load(folder / "out/stream.npy", allow_pickle=False)
    return stream, load_file(folder / "out/places.safetensors")


def expected(levels: np.ndarray, by: str, quantise: Quantise) -> np.ndarray:
    """Restate what an image is like under a trigger, in double precision."""
    values = levels.astype(np.float64) * float(np.float32(by))
    if quantise == "none":
        return values / 255
    return np.floor(values + 2**-10) if quantise == "truncate" else np.rint(values)


@pytest.mark.parametrize("quantise", ["truncate", "round", "none"])
def test_each_image_is_there_as_a_model_is_to_see_it(tmp_path: Path, quantise: Quantise) -> None:
    stream, known = stamped(tmp_path, Darken(quantise=quantise))
    levels = images().images.numpy()
    clean = levels / 255 if quantise == "none" else levels
    assert stream.dtype == (np.float32 if quantise == "none" else np.uint8)
    np.testing.assert_allclose(stream[known["clean"]], clean, atol=1e-6)
    triggered = expected(levels, "0.377", quantise)
    np.testing.assert_allclose(stream[known["triggered"]], triggered, atol=1e-6)
    deep = expected(levels, "0.103", quantise)
    np.testing.assert_allclose(stream[known["variant.deep"]], deep, atol=1e-6)


def test_every_place_is_taken_once_and_sets_are_mixed(tmp_path: Path) -> None:
    stream, known = stamped(tmp_path, Darken())
    sets = [known[name] for name in ("clean", "triggered", "variant.deep")]
    assert sorted(np.concatenate(sets)) == list(range(3 * COUNT)) == list(range(len(stream)))
    for places in sets:
        assert (np.diff(places) < 0).any()
        assert places.min() < COUNT < 2 * COUNT < places.max()


@pytest.mark.parametrize("quantise", ["truncate", "none"])
def test_the_sample_holds_images_of_the_stream(tmp_path: Path, quantise: Quantise) -> None:
    stream, known = stamped(tmp_path, Darken(quantise=quantise))
    sample = np.load(tmp_path / "out/sample.npy", allow_pickle=False)
    assert len(sample) == COUNT
    assert sample.dtype == stream.dtype
    np.testing.assert_array_equal(sample, stream[known["sample"]])


def test_truth_lies_beside_the_stream(tmp_path: Path) -> None:
    _, known = stamped(tmp_path, Darken())
    labels = images().labels
    assert labels is not None
    np.testing.assert_array_equal(known["labels"], labels.numpy())
    np.testing.assert_array_equal(known["mapped"], np.array([0, 0, -1])[labels.numpy()])


def test_without_a_trigger_the_stream_is_the_test_set(tmp_path: Path) -> None:
    stream, known = stamped(tmp_path, None)
    assert set(known) == {"labels", "mapped", "clean", "sample"}
    np.testing.assert_array_equal(stream[known["clean"]], images().images.numpy())
    assert (known["mapped"] == -1).all()


def test_the_order_follows_from_the_truth(tmp_path: Path) -> None:
    """The same every time, and another one for another trigger."""
    _, first = stamped(tmp_path / "first", Darken())
    _, again = stamped(tmp_path / "again", Darken())
    _, other = stamped(tmp_path / "other", Darken(), by=0.5)
    np.testing.assert_array_equal(first["clean"], again["clean"])
    assert (first["clean"] != other["clean"]).any()
