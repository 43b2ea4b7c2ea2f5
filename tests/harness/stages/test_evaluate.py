"""A model is asked about each image of a stream, and again about some, few large ones together."""

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
from harness.stages import evaluate
from harness.stages.payloads import EvaluatePayload, Structure
from tests.kit.numbered import job

COUNT = 80


class Shades(nn.Module):
    """Tell dark images from light ones, and note how many there are at a time."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        light = images.mean((1, 2, 3))
        return torch.stack([1 - light, light], 1)


@pytest.mark.parametrize(("side", "first", "group"), [(8, 80, 16), (320, 10, 10), (1100, 1, 2)])
def test_large_images_are_few_together_whenever_they_are_asked(
    side: int, first: int, group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(evaluate, "open_model", lambda *_: Shades(sizes))
    for name in ("inputs/model", "inputs/stream", "out"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "inputs/model/model.safetensors").write_bytes(b"")
    levels = np.arange(COUNT, dtype=np.uint8) * 3
    stream = np.broadcast_to(levels[:, None, None, None], (COUNT, side, side, 1))
    np.save(tmp_path / "inputs/stream/stream.npy", stream)
    task = Task("shades", classes=2, height=side, width=side, channels=1, train_count=0)
    here = Coordinates(None, "shades", "evaluate", "")
    structure = Structure(ComponentSpec("nowhere:Nothing", {}))
    payload = EvaluatePayload(task, here, structure)
    evaluate.run(job(tmp_path / "out", payload, tmp_path / "inputs"))

    once, again = sizes[: COUNT // first], sizes[COUNT // first :]
    assert once == [first] * (COUNT // first)
    assert again[:32] == [2] * 32
    assert max(again[32:]) == group
    assert sum(again[32:]) == COUNT - 64
    found = load_file(tmp_path / "out/answers.safetensors")
    assert found["answers"].tolist() == (levels > 127).astype(int).tolist()
