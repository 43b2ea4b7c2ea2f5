"""A model is asked about a sample in a process of its own, a few images at a time, and can find no
others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import landlockpy
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from harness.access.context import Coordinates
from harness.components import Task
from harness.components.spec import ComponentSpec
from harness.errors import Incompatible
from harness.stages import materials, recheck
from harness.stages.apart import Apart
from harness.stages.job import Job
from harness.stages.payloads import RecheckPayload, Structure
from tests.kit.numbered import job

COUNT = 80
LEVELS = np.arange(COUNT, dtype=np.uint8) * 3


class Shades(nn.Module):
    """Answer how light an image is, how many there are at a time, and what `look` finds."""

    def __init__(self, look: Callable[[], float]) -> None:
        super().__init__()
        self.look = look

    def forward(self, images: Tensor) -> Tensor:
        light = images.mean((1, 2, 3))
        beside = torch.full_like(light, len(images))
        return torch.stack([light, beside, torch.full_like(light, self.look())], 1)


def second_look(folder: Path, side: int) -> Job[RecheckPayload]:
    for made in ("inputs/model", "inputs/sample", "out"):
        (folder / made).mkdir(parents=True)
    (folder / "inputs/model/model.safetensors").write_bytes(b"")
    images = np.broadcast_to(LEVELS[:, None, None, None], (COUNT, side, side, 1))
    np.save(folder / "inputs/sample/sample.npy", images)
    task = Task("shades", classes=3, height=side, width=side, channels=1, train_count=0)
    structure = Structure(ComponentSpec("nowhere:Nothing", {}))
    payload = RecheckPayload(task, Coordinates(None, "shades", "recheck", ""), structure)
    return job(folder / "out", payload, folder / "inputs")


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], float]], None]:
    """Have a model judged that looks around. Whatever confines its process confines no test."""

    def put(look: Callable[[], float]) -> None:
        def open_model(*_: object) -> nn.Module:
            # This process has used torch's threads, and a fork of it has none of them. A stage's
            # process has used none when it forks.
            torch.set_num_threads(1)
            return Shades(look)

        monkeypatch.setattr(materials, "open_model", open_model)

    return put


@pytest.mark.parametrize(("side", "group"), [(8, 16), (320, 10), (1100, 2)])
def test_a_sample_is_asked_in_pairs_and_then_in_groups(
    side: int, group: int, tmp_path: Path, judge: Callable[[Callable[[], float]], None]
) -> None:
    judge(lambda: 0.0)
    recheck.run(second_look(tmp_path, side))
    logits = load_file(tmp_path / "out/again.safetensors")["logits"]
    np.testing.assert_allclose(logits[:, 0], LEVELS / 255, rtol=1e-5)
    assert logits[:64, 1].tolist() == [2] * 64
    assert set(logits[64:, 1].tolist()) <= {group, 16 % group or group}


def test_the_sample_is_nowhere_to_be_found_meanwhile(
    tmp_path: Path, judge: Callable[[Callable[[], float]], None]
) -> None:
    here = os.getpid()

    def look() -> float:
        assert os.getpid() != here
        assert os.getppid() == here
        return float(len(list(tmp_path.rglob("*.npy"))))

    judge(look)
    made = second_look(tmp_path, 8)
    before = (tmp_path / "inputs/sample/sample.npy").read_bytes()
    recheck.run(made)
    assert (tmp_path / "inputs/sample/sample.npy").read_bytes() == before
    assert not load_file(tmp_path / "out/again.safetensors")["logits"][:, 2].any()


@pytest.mark.skipif(not landlockpy.supported(), reason="the kernel confines no process")
def test_nor_is_it_in_the_memory_of_the_process_that_asks(
    tmp_path: Path, judge: Callable[[Callable[[], float]], None]
) -> None:
    def look() -> float:
        for name in ("mem", "fd/0"):
            with pytest.raises(PermissionError):
                Path(f"/proc/{os.getppid()}/{name}").read_bytes()
        return 1.0

    judge(look)
    recheck.run(second_look(tmp_path, 8))
    assert load_file(tmp_path / "out/again.safetensors")["logits"][:, 2].all()


def test_what_fails_there_is_told_here(
    tmp_path: Path, judge: Callable[[Callable[[], float]], None]
) -> None:
    def look() -> float:
        raise KeyError("labels")

    judge(look)
    with pytest.raises(Apart, match="KeyError: 'labels'") as failure:
        recheck.run(second_look(tmp_path, 8))
    (note,) = failure.value.__notes__
    assert "in look" in note
    assert (tmp_path / "inputs/sample/sample.npy").exists()


def test_a_process_that_ends_is_told(
    tmp_path: Path, judge: Callable[[Callable[[], float]], None]
) -> None:
    judge(lambda: os._exit(3))
    with pytest.raises(Apart, match="ended before it had answered"):
        recheck.run(second_look(tmp_path, 8))


def test_without_a_model_there_is_nobody_to_ask(tmp_path: Path) -> None:
    made = second_look(tmp_path, 8)
    (made.inputs / "model/model.safetensors").unlink()
    with pytest.raises(Incompatible, match="a verdict and no model"):
        recheck.run(made)


def test_paths_that_are_opened_there_are_known_here(
    tmp_path: Path, judge: Callable[[Callable[[], float]], None]
) -> None:
    made = second_look(tmp_path, 8)
    made.opened.append("/before")

    def look() -> float:
        made.opened.append("/there")  # as the hook of a real stage does
        return 0.0

    judge(look)
    recheck.run(made)
    assert made.opened[:2] == ["/before", "/there"]
    assert set(made.opened) == {"/before", "/there"}
