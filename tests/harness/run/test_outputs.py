"""What a stage leaves is checked file by file: what must be there, and the form of its tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness.access.context import Coordinates
from harness.components import Task
from harness.components.spec import ComponentSpec
from harness.run import outputs
from harness.stages.payloads import (
    ContextSpec,
    EvaluatePayload,
    GrantPayload,
    Payload,
    PoisonPayload,
    RecheckPayload,
    StampPayload,
    Structure,
)
from tests.kit.engine_stages import make

TASK = Task("noise", classes=3, height=4, width=5, channels=3, train_count=0)
HERE = Coordinates(None, "noise", "stage", "")
NOTHING = ComponentSpec("nowhere:Nothing", {})

PAYLOADS: Mapping[str, Payload] = {
    "poison": PoisonPayload(NOTHING, ContextSpec(TASK, HERE)),
    "grant": GrantPayload(HERE, "pool", 7, labelled=True),
    "blind grant": GrantPayload(HERE, "pool", 7, labelled=False),
    "stamp": StampPayload(TASK, HERE, None),
    "evaluate": EvaluatePayload(TASK, HERE, Structure(NOTHING)),
    "recheck": RecheckPayload(TASK, HERE, Structure(NOTHING)),
}


@dataclass(frozen=True)
class Left:
    """The scratch folder of a stage: what it was given and what it leaves."""

    folder: Path
    kind: str

    def save(self, name: str, metadata: Mapping[str, str] | None = None, **arrays: Any) -> None:
        save_file(arrays, self.folder / "out" / name, metadata=dict(metadata or {}))

    def put(self, name: str, content: bytes) -> None:
        (self.folder / "out" / name).write_bytes(content)

    def check(self) -> None:
        stage = make("stage", kind=self.kind.split()[-1])
        if self.kind in PAYLOADS:
            stage = replace(stage, payload=PAYLOADS[self.kind])
        outputs.check(stage, self.folder)


def numbers(count: int = 7, dtype: str = "int64") -> np.ndarray:
    return np.zeros(count, dtype)


def pictures(count: int = 7, *size: int, dtype: str = "uint8") -> np.ndarray:
    return np.zeros((count, *(size or (4, 5, 3))), dtype)


PAIR = {"images": pictures(), "labels": numbers()}
PLACES = {"labels": numbers(), "mapped": numbers(), "clean": numbers(), "sample": numbers(4)}
LOGITS = np.zeros((14, 3), np.float32)
STATE = {"weight": np.zeros(3, np.float16)}

FILES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "data": {"train": PAIR, "pool": PAIR, "validation": PAIR, "test": PAIR},
    "poison": {"trigger": STATE, "poisoned": {**PAIR, "indices": numbers()}},
    "victim": {"model": STATE, "trigger": STATE},
    "export": {"training": PAIR, "poisoned": {"poisoned": numbers(dtype="bool")}},
    "grant": {"images": PAIR},
    "blind grant": {"images": {"images": pictures()}},
    "stamp": {"places": {**PLACES, "triggered": numbers()}},
    "evaluate": {"answers": {"logits": LOGITS}},
    "recheck": {"again": {"logits": LOGITS[:4].copy()}},
    "preview": {"panel": {"clean": pictures(), "triggered": pictures(dtype="float32")}},
}
"""The tensors that a stage of a kind leaves, by file."""


def left(kind: str, folder: Path) -> Left:
    """Make the scratch folder of a stage of a kind that has left what it must."""
    stage = Left(folder, kind)
    for name in ("inputs/stream", "inputs/sample", "out"):
        (folder / name).mkdir(parents=True)
    for name, arrays in FILES[kind].items():
        metadata = {"add": "False"} if kind == "poison" else {}
        stage.save(f"{name}.safetensors", metadata, **arrays)
    if kind in ("poison", "victim"):
        stage.put("truth.json", b"{}")
    if kind == "preview":
        stage.put("panel.json", b"{}")
    if kind == "stamp":
        np.save(folder / "out" / "stream.npy", pictures(14))
        np.save(folder / "out" / "sample.npy", pictures(4))
    np.save(folder / "inputs" / "stream" / "stream.npy", pictures(14))
    np.save(folder / "inputs" / "sample" / "sample.npy", pictures(4))
    return stage


@pytest.mark.parametrize("kind", FILES)
def test_what_is_as_it_should_be_passes(kind: str, tmp_path: Path) -> None:
    left(kind, tmp_path).check()


WRONG: list[tuple[str, str, Mapping[str, Any], str]] = [
    ("data", "pool", {**PAIR, "images": pictures(7, 4, 5, 4)}, r"\(7, 4, 5, 4\); uint8 images"),
    (
        "data",
        "pool",
        {**PAIR, "images": pictures(7, 5, 5, 3)},
        r"are \(5, 5, 3\), those of other splits \(4, 5, 3\)",
    ),
    ("data", "pool", {**PAIR, "labels": numbers(6)}, r"labels is int64 \(6,\); int64 \(7,\)"),
    ("data", "pool", {"images": pictures()}, "it holds no 'labels'"),
    ("poison", "poisoned", PAIR, "it holds no 'indices'"),
    ("poison", "poisoned", {**PAIR, "indices": numbers(dtype="int32")}, "indices is int32"),
    ("poison", "poisoned", {**PAIR, "indices": numbers()}, "whether images were added"),
    ("poison", "poisoned", {**PAIR, "images": pictures(7, 8, 8, 3)}, r"uint8 \(n, 4, 5, 3\)"),
    (
        "poison",
        "poisoned",
        {**PAIR, "indices": numbers(), "cover": numbers()},
        r"cover is int64 \(7,\); bool \(7,\)",
    ),
    ("export", "training", {"images": pictures()}, "it holds no 'labels'"),
    ("export", "training", {**PAIR, "images": pictures(dtype="float32")}, "images is float32"),
    ("export", "poisoned", {"poisoned": numbers(6, "bool")}, r"bool \(7,\) is expected"),
    ("grant", "images", {"images": pictures()}, "it holds no 'labels'"),
    ("grant", "images", {"labels": numbers()}, "it holds no 'images'"),
    ("blind grant", "images", PAIR, "it holds labels, where images without labels are granted"),
    ("stamp", "places", {"labels": numbers()}, "it holds no 'sample'"),
    (
        "stamp",
        "places",
        {"labels": numbers(), "sample": numbers(4)},
        "it holds no 'clean'",
    ),
    ("stamp", "places", PLACES, "places for 7 images, but there are 14 in the stream"),
    ("stamp", "places", {**PLACES, "variant.a": numbers(6)}, r"variant.a is int64 \(6,\)"),
    ("stamp", "places", {**PLACES, "labels": pictures()}, r"int64 \(n,\) is expected"),
    ("stamp", "places", {**PLACES, "sample": numbers()}, r"sample is int64 \(7,\); int64 \(4,\)"),
    ("evaluate", "answers", {"answers": numbers(14)}, "it holds no 'logits'"),
    ("evaluate", "answers", {"logits": LOGITS[1:].copy()}, r"\(13, 3\); float32 \(14, 3\)"),
    ("evaluate", "answers", {"logits": LOGITS.astype(np.float16)}, "logits is float16"),
    ("evaluate", "answers", {"logits": LOGITS[:, :2].copy()}, r"\(14, 2\); float32 \(14, 3\)"),
    ("recheck", "again", {"logits": LOGITS}, r"\(14, 3\); float32 \(4, 3\) is expected"),
    ("preview", "panel", {"triggered": pictures()}, "it holds no 'clean'"),
    ("preview", "panel", {"clean": pictures(), "a": numbers()}, r"a is int64 \(7,\)"),
]


@pytest.mark.parametrize(("kind", "name", "arrays", "said"), WRONG)
def test_tensors_of_another_form(
    kind: str, name: str, arrays: Mapping[str, Any], said: str, tmp_path: Path
) -> None:
    stage = left(kind, tmp_path)
    stage.save(f"{name}.safetensors", **arrays)
    with pytest.raises(ValueError, match=rf"its {name}\.safetensors is not as .*: .*{said}"):
        stage.check()


@pytest.mark.parametrize("kind", FILES)
def test_no_safetensors_whatever_they_are_for(kind: str, tmp_path: Path) -> None:
    stage = left(kind, tmp_path)
    for path in (tmp_path / "out").glob("*.safetensors"):
        content = path.read_bytes()
        stage.put(path.name, content[:-1])
        with pytest.raises(ValueError, match=rf"its {path.name} is not as it should be"):
            stage.check()
        stage.put(path.name, content)
    stage.check()


STREAMS: Mapping[str, Callable[[Left], object]] = {
    r"uint8 \(14, 5, 4, 3\); images \(n, 4, 5, 3\) are expected": lambda stage: np.save(
        stage.folder / "out" / "stream.npy", pictures(14, 5, 4, 3)
    ),
    "no .npy file": lambda stage: stage.put("stream.npy", b"pixels"),
}


@pytest.mark.parametrize("said", STREAMS)
def test_streams_of_another_form(said: str, tmp_path: Path) -> None:
    stage = left("stamp", tmp_path)
    STREAMS[said](stage)
    with pytest.raises(ValueError, match=rf"its stream\.npy is not as it should be: .*{said}"):
        stage.check()


def test_an_attack_that_controls_training_leaves_no_poisoned_set(tmp_path: Path) -> None:
    stage = left("poison", tmp_path)
    (tmp_path / "out" / "poisoned.safetensors").unlink()
    stage.check()


def test_a_stage_leaves_what_its_kind_must(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="left no file"):
        Left(tmp_path, "score").check()
    (tmp_path / "out" / "notes.txt").write_text("")
    Left(tmp_path, "tests").check()
    with pytest.raises(ValueError, match=r"left no rows\.json"):
        Left(tmp_path, "score").check()
    result = tmp_path / "out" / "result.json"
    result.write_text(json.dumps({"record": {}}))
    with pytest.raises(ValueError, match="what the work cost"):
        Left(tmp_path, "defend").check()
    result.write_text(json.dumps({"record": {"seconds": 1, "images": 0}}))
    Left(tmp_path, "defend").check()
