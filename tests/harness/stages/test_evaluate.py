"""A model is asked about each image of a stream, and by another stage about a sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from harness.access.context import Coordinates
from harness.components import Task
from harness.components.spec import ComponentSpec
from harness.errors import Incompatible
from harness.stages import evaluate, materials, recheck
from harness.stages.job import Job
from harness.stages.payloads import EvaluatePayload, RecheckPayload, Structure
from tests.kit.numbered import job

COUNT = 80
STRUCTURE = Structure(ComponentSpec("nowhere:Nothing", {}))
LEVELS = np.arange(COUNT, dtype=np.uint8) * 3


class Shades(nn.Module):
    """Tell dark images from light ones, and note how many there are at a time."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        light = images.mean((1, 2, 3))
        return torch.stack([1 - light, light], 1)


def shown(folder: Path, name: str, side: int) -> Task:
    """Lay out the inputs of a stage: a model, and a folder and file `name` of images."""
    for made in ("inputs/model", f"inputs/{name}", "out"):
        (folder / made).mkdir(parents=True)
    (folder / "inputs/model/model.safetensors").write_bytes(b"")
    images = np.broadcast_to(LEVELS[:, None, None, None], (COUNT, side, side, 1))
    np.save(folder / f"inputs/{name}/{name}.npy", images)
    return Task("shades", classes=2, height=side, width=side, channels=1, train_count=0)


def evaluation(folder: Path, side: int) -> Job[EvaluatePayload]:
    task = shown(folder, "stream", side)
    payload = EvaluatePayload(task, Coordinates(None, "shades", "evaluate", ""), STRUCTURE)
    return job(folder / "out", payload, folder / "inputs")


def second_look(folder: Path, side: int) -> Job[RecheckPayload]:
    task = shown(folder, "sample", side)
    payload = RecheckPayload(task, Coordinates(None, "shades", "recheck", ""), STRUCTURE)
    return job(folder / "out", payload, folder / "inputs")


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have `Shades` judged; return where it notes how many images it was asked about together."""
    noted: list[int] = []
    monkeypatch.setattr(materials, "open_model", lambda *_: Shades(noted))
    return noted


@pytest.mark.parametrize(("side", "together"), [(8, 80), (320, 10), (1100, 1)])
def test_large_images_are_few_together(
    side: int, together: int, tmp_path: Path, sizes: list[int]
) -> None:
    evaluate.run(evaluation(tmp_path, side))
    assert sizes == [together] * (COUNT // together)
    logits = load_file(tmp_path / "out/answers.safetensors")["logits"]
    np.testing.assert_allclose(logits[:, 1], LEVELS / 255, rtol=1e-5)
    assert logits.dtype == np.float32


@pytest.mark.parametrize(("side", "group"), [(8, 16), (320, 10), (1100, 2)])
def test_a_sample_is_asked_in_pairs_and_then_in_groups(
    side: int, group: int, tmp_path: Path, sizes: list[int]
) -> None:
    recheck.run(second_look(tmp_path, side))
    assert sizes[:32] == [2] * 32
    assert max(sizes[32:]) == group
    assert sum(sizes[32:]) == COUNT - 64
    logits = load_file(tmp_path / "out/again.safetensors")["logits"]
    np.testing.assert_allclose(logits[:, 1], LEVELS / 255, rtol=1e-5)


def test_without_a_model_there_is_nobody_to_ask(tmp_path: Path) -> None:
    for number, asked in enumerate((evaluation, second_look)):
        made = asked(tmp_path / str(number), 8)
        (made.inputs / "model/model.safetensors").unlink()
        run = evaluate.run if asked is evaluation else recheck.run
        with pytest.raises(Incompatible, match="a verdict and no model"):
            run(made)  # type: ignore[arg-type]
