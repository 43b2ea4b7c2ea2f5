"""A model is asked about each image of a stream, few large ones together."""

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
from harness.stages import evaluate, materials
from harness.stages.job import Job
from harness.stages.payloads import EvaluatePayload, Structure
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


def evaluation(folder: Path, side: int) -> Job[EvaluatePayload]:
    for made in ("inputs/model", "inputs/stream", "out"):
        (folder / made).mkdir(parents=True)
    (folder / "inputs/model/model.safetensors").write_bytes(b"")
    images = np.broadcast_to(LEVELS[:, None, None, None], (COUNT, side, side, 1))
    np.save(folder / "inputs/stream/stream.npy", images)
    task = Task("shades", classes=2, height=side, width=side, channels=1, train_count=0)
    payload = EvaluatePayload(task, Coordinates(None, "shades", "evaluate", ""), STRUCTURE)
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


def test_without_a_model_there_is_nobody_to_ask(tmp_path: Path) -> None:
    made = evaluation(tmp_path, 8)
    (made.inputs / "model/model.safetensors").unlink()
    with pytest.raises(Incompatible, match="a verdict and no model"):
        evaluate.run(made)
