"""Answers to a stream come back to the test images that they are for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from harness.stages.answers import open_predictions
from harness.stages.independence import NotIndependent
from tests.kit.answered import CLASSES, answered

LABELS = np.array([3, 1, 2, 0, 1])
GIVEN = {
    "clean": np.array([3, 1, 2, 0, 2]),
    "triggered": np.array([0, 0, 0, 0, 1]),
    "variant.noise": np.array([1, 1, 1, 0, 1]),
}


def test_each_set_is_in_the_order_of_the_test_set(tmp_path: Path) -> None:
    answered(tmp_path, LABELS, **GIVEN)
    found = open_predictions(tmp_path)
    np.testing.assert_array_equal(found.labels, LABELS)
    np.testing.assert_array_equal(found.clean, GIVEN["clean"])
    assert found.triggered is not None
    np.testing.assert_array_equal(found.triggered, GIVEN["triggered"])
    assert set(found.variants) == {"noise"}
    np.testing.assert_array_equal(found.variants["noise"], GIVEN["variant.noise"])
    places = load_file(tmp_path / "places" / "places.safetensors")["clean"]
    np.testing.assert_array_equal(found.logits[:, CLASSES], places)
    assert found.logits.dtype == np.float16
    assert found.record == {"seconds": 0.0, "images": 0.0}


def test_without_a_trigger_there_are_clean_answers_only(tmp_path: Path) -> None:
    answered(tmp_path, LABELS, clean=GIVEN["clean"])
    found = open_predictions(tmp_path)
    assert found.triggered is None
    assert found.variants == {}


def test_the_record_of_the_defense_comes_along(tmp_path: Path) -> None:
    answered(tmp_path, LABELS, clean=GIVEN["clean"])
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "result.json").write_text(json.dumps({"record": {"seconds": 2.5}}))
    assert open_predictions(tmp_path).record == {"seconds": 2.5}


@pytest.mark.parametrize("name", ["answers", "again"])
@pytest.mark.parametrize(
    ("logits", "told"),
    [
        (np.zeros((3, CLASSES), np.float32), r"are torch.float32 \(3, 4\)"),
        (np.zeros((15, CLASSES), np.float16), r"are torch.float16 \(15, 4\)"),
        (np.zeros(15, np.float32), r"are torch.float32 \(15,\)"),
    ],
)
def test_answers_to_something_else_are_refused(
    tmp_path: Path, name: str, logits: np.ndarray, told: str
) -> None:
    answered(tmp_path, LABELS, **GIVEN)
    save_file({"logits": logits}, tmp_path / name / f"{name}.safetensors")
    what = "15, classes" if name == "answers" else "5, classes"
    with pytest.raises(ValueError, match=rf"in {name}.safetensors {told}; .*\({what}\)"):
        open_predictions(tmp_path)


@pytest.mark.parametrize("name", ["answers", "again"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    """They would agree with any others."""
    answered(tmp_path, LABELS, **GIVEN)
    path = tmp_path / name / f"{name}.safetensors"
    logits = load_file(path)["logits"]
    logits[2, 1] = value
    save_file({"logits": logits}, path)
    with pytest.raises(ValueError, match=f"{name}.safetensors are not all finite"):
        open_predictions(tmp_path)


def test_answers_that_another_process_did_not_get_are_refused(tmp_path: Path) -> None:
    answered(tmp_path, LABELS, **GIVEN)
    path = tmp_path / "again" / "again.safetensors"
    logits = load_file(path)["logits"]
    logits[0] = np.roll(logits[0], 1)
    save_file({"logits": logits}, path)
    with pytest.raises(NotIndependent, match=r"of 5 test images .* 1 got other logits"):
        open_predictions(tmp_path)
